"""Parts of `contract.json`, and checks of them, that have a module of their own.

prompt_layout   how an input becomes one string
vocabulary      the ids and tokens that it shares with the tokenizer
"""
