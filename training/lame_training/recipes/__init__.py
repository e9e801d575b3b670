"""Recipes: the values that determine a training run, and the recipes that ship with the package.

recipe.py           `Recipe`, the whole run as a frozen dataclass
stages.py           `Stage`, one of its stages: losses, schedule, optimizer
scratch_backbone.py the contract and config of a backbone that is trained from random weights
latent_decoder.py   the latent decoder, from a folder or from random weights
digits_recipes.py   recipes for the handwritten digits, from random weights
published.py        the four configurations of the paper, with and without LoRA
catalog.py          the recipes by name, and how data sets get into them
"""
