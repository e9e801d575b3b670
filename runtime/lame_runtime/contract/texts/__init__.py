"""Texts before they are tokenized: bounded, and cut where a cut cannot change an id.

pieces    long texts in pieces that are tokenized one by one, and the limits for texts
"""
