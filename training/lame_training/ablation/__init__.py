"""Ablation of the method on tasks of growing difficulty."""
