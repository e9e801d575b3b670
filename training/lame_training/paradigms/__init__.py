"""Four ways to embed with one backbone, timed against each other: discriminative, LaME, latent rollout, explicit CoT.

Axes: B batch, L prompt length, N any number of positions, D backbone width, P embedding length, V vocabulary, F vision
features of the batch, W width of a feature row, H query heads, G key and value heads, d head width, S cached positions.
"""
