"""Finds the pictures of a folder that fit a text best.

    python examples/search_folder.py
    python examples/search_folder.py examples/pictures "digits that add up to nine"

Needs lame-runtime[onnxruntime]. Run it from the repository's root.
"""

import argparse
from pathlib import Path

from lame_runtime import Encoder

parser = argparse.ArgumentParser()
parser.add_argument("folder", nargs="?", type=Path, default=Path("examples/pictures"))
parser.add_argument("query", nargs="?", default="digits that add up to seven")
parser.add_argument("--bundle", type=Path, default=Path("examples/tiny-bundle"))
arguments = parser.parse_args()

paths = sorted(arguments.folder.glob("*.png"))
with Encoder.load(arguments.bundle) as encoder:
    pictures = encoder.encode_document(paths, show_progress_bar=True)
    # the tiny model was trained with this instruction before texts that describe a picture
    query = encoder.encode_query(arguments.query, instruction="Find the picture.")
    scores = encoder.similarity(query, pictures)[0]

for index in scores.argsort()[::-1][:4]:
    print(f"{scores[index]:.2f}  {paths[index]}")
