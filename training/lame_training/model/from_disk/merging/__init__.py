"""Merges PEFT adapters, from every class of each family, into the weights of our model.

adapter_settings  the settings of `adapter_config.json` that change what a merge gives
adapter_weights   an adapter's weights by the layer of our model that they belong to
adapter_names     the names that our layers have in the models that adapters are trained on
adapter_targets   whether an adapter holds the layers that its settings name
adapter_parts     whether it holds the modules, rows and biases that its settings name
adapter_merge     the merge itself, computed by PEFT
match_patterns    the function that matches an adapter's regular expressions
"""
