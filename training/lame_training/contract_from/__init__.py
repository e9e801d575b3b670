"""Derives the contract of a model from its backbone folder, or trains the tokenizer if it has none.

backbone            derives the contract from a `save_pretrained` folder
processor_files     reads picture and video rules from the folder's processor files
published_rules     the rules that each family's published processor files hold
budget              limits that a recipe sets, and rules lowered to them
chat_template       derives the prompt's layout from the folder's chat template
tokenizer_training  trains the tokenizer of a model that is trained from scratch
"""
