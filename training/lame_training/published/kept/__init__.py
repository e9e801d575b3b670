"""A training run keeps prompt and pooling of a published embedder, besides its weights.

starting_contract   the contract that a run on a backbone's folder begins with
kept_pooling        the pooled token and the head, from which [EMBED] and the run's head start
published_head      the head of a published embedder, as the last layer of a LaME model
"""
