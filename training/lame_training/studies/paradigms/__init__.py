"""Times four ways to embed on one backbone: same inputs, dtype, attention kernel and layers.

A *paradigm* is one of these ways. The literature on reasoning embedders compares them under this
word:

discriminative  one prefill; the embedding is the last prompt token's hidden state
LaME            one prefill with K reason tokens and [EMBED] after the prompt; the state of [EMBED]
latent rollout  a prefill, then steps that each read the hidden state of the step before
explicit CoT    a prefill, then greedy decoding of a chain of thought; the last token's state

The modules, in the order in which they use each other:

prompts         random prompts of exactly L positions
language_model  the backbone's layers as an inference engine runs them
baselines       the four ways as programs that a GPU can replay as CUDA graphs
peak_memory     peak memory of a piece of work, and what happens if memory runs out
measure         times the four programs at one batch size and prompt length (a *cell*)
goals           the method's goals for the ratios, and sentences about what the ratios depend on
plot            the PNG
report          results as JSON, Markdown and terminal tables
benchmark       a whole run: one cell after the other, saved after each

Tensors carry their axes at the end of their names:

    B  batch                          G  key/value heads
    L  prompt length                  S  positions that the KV cache has room for
    N  positions of one forward pass  d  width of one attention head
    K  reason tokens                  F  rows of the feature table, see `LaMEModel`
    D  width of the backbone          W  width of its rows: D, plus D per DeepStack level
    V  vocabulary                     M  vision tokens of one picture
    P  length of the embedding        T  decoded tokens
    H  query heads plus key heads     3  M-RoPE axes: time, row, column
"""
