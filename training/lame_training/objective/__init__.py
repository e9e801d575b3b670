"""The training objective: the losses, and how their gradient is computed.

losses      InfoNCE over embeddings, and reconstruction of a target text from the reason states
negatives   which inputs of a batch are queries, candidates and negatives
gradcache   the gradient of one step's loss, in chunks and over several processes
"""
