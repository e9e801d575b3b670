"""Reads folders of weights that come from others: nothing in them runs, and nothing is unpickled.

tensors            the safetensors of a folder, and checks of what they hold
config_fields      the settings of `config.json` that are read, each with its range
config_relations   whether the settings of a model agree with each other
checkpoint_checks  whether the files of a checkpoint are there and belong together
limited_process    runs a function of ours in a process with limits on time and memory
merging            merges PEFT adapters into the weights of their base
"""
