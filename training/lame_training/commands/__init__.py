"""The commands of `lame-train`, a module each: `add(commands)` declares the arguments.

train_command.py            run: train a recipe
evaluate_command.py         evaluate: run a benchmark on a checkpoint or bundle
paradigms_command.py        paradigms: time LaME against its alternatives
ablation_command.py         ablation: what reason tokens and L_rec contribute
probe_command.py            probe: whether a checkpoint uses its reason tokens
digits_command.py           digits: write the digits data set
fixtures_command.py         fixtures: write small data in published layouts
sample_backbone_command.py  sample-backbone: write a backbone in random weights
import_command.py           import: write a published embedder as a checkpoint

Nothing here imports PyTorch before a command runs, so that `--help` and a mistyped option answer at
once.
"""
