"""Makes `examples/tiny-bundle`: trains a tiny model on handwritten digits and exports it.

    python examples/make_tiny_bundle.py tiny-bundle      # 4 minutes on 2 cores

Needs lame-training and lame-export[graph].
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import lame_training

import lame_export

parser = argparse.ArgumentParser()
parser.add_argument("bundle", type=Path, help="folder to write")
parser.add_argument("--steps", type=int, help="stop training after this many steps")
parser.add_argument("--data", type=Path, help="digits to train on (default: all are written)")
arguments = parser.parse_args()

# the recipe of the tests, with a smaller model, smaller patches, and three tasks
recipe = lame_training.find_recipe("digits-tiny")
text = {**recipe.scratch.config["text_config"], "intermediate_size": 96}
vision = {**recipe.scratch.config["vision_config"], "patch_size": 7, "embed_dim": 32}
images = replace(recipe.scratch.images, patch_size=7)
config = {"text_config": text, "vision_config": vision}
scratch = replace(recipe.scratch, config=config, images=images, vocab_size=320)
warm_up, joint = recipe.stages
tasks = tuple(task for task in joint.tasks if task.name in ("digit", "sum2", "find2"))
warm_up = replace(warm_up, steps=100, batch_size=64, sub_batch=32)
joint = replace(joint, steps=1000, batch_size=96, sub_batch=48, tasks=tasks)
recipe = replace(recipe, name="tiny", scratch=scratch, stages=(warm_up, joint), save_every=10_000)

with tempfile.TemporaryDirectory() as folder:
    checkpoint = Path(folder, "checkpoint")
    lame_training.train(recipe, arguments.data, checkpoint, steps=arguments.steps)
    data = arguments.data or checkpoint / "data"
    lame_export.export(checkpoint, arguments.bundle, data, graphs=["fp32"], per_modality=3)
