"""Parts of `contract.json`, and checks of them, that have a module of their own.

prompt_layout   how an input becomes one string
token_rules     ids of special tokens, and the tokens that follow a prompt
roles           the instruction that a role stands for
vocabulary      the ids and tokens that it shares with the tokenizer
"""
