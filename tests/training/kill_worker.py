"""Trains the tiny recipe with a state after every step, to be killed at any moment.

`test_kill.py` starts it: `python kill_worker.py DATA OUTPUT`. It begins a run, or continues one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lame_training import find_recipe, train
from lame_training.run.run_folder import steps_of


def main() -> None:
    """Trains, or goes on where a kill stopped it."""
    # sums of several threads differ in their last bits, and the losses are compared
    torch.set_num_threads(1)
    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    # killed after its last step, when there was nothing left to do
    if steps_of(output) == find_recipe("digits-tiny").steps:
        return
    train(
        "digits-tiny",
        data,
        output,
        # what was killed before it had written a recipe begins again
        resume=(output / "recipe.json").exists(),
        save_every=1,
        progress=False,
        device="cpu",
    )


if __name__ == "__main__":
    main()
