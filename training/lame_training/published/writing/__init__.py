"""Writes a trained LaME model as a folder that Sentence Transformers loads.

write_folder      the weights and the settings of the modules
latent_tokens     the latent tokens as special tokens of the tokenizer, with rows in the table
module_files      the files that such folders consist of besides weights
layout_template   the chat template that prints what the contract's layout says
"""
