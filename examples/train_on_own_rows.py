"""Trains a tiny model on rows of one's own, from random weights, and tries the checkpoint.

    python examples/train_on_own_rows.py runs/own        # some seconds

Needs lame-training. Run it from the repository's root.
"""

import json
import shutil
import sys
from pathlib import Path

import lame_training

words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
data, output = Path(sys.argv[1], "data"), Path(sys.argv[1], "checkpoint")
# paths of pictures start at the data root
shutil.copytree("examples/pictures", data / "images")

# one row per line: a query, what it should find, and optionally hard negatives
rows = [
    {"query": word, "positive": {"image": f"images/{digit}.png"}}
    for digit, word in enumerate(words)
]
text = "".join(json.dumps(row) + "\n" for row in rows)
(data / "names.jsonl").write_text(text, encoding="utf-8")
# target_side: the reason tokens of the picture must hold the query's text
mixture = "data_sets:\n  - {name: names, format: jsonl, path: names.jsonl, target_side: query}\n"
(data / "mixture.yaml").write_text(mixture, encoding="utf-8")

# for a real model: recipe "lame-qwen2-vl-2b", with backbone="Qwen2-VL-2B-Instruct"
lame_training.train("digits-tiny", data, output, mixture=data / "mixture.yaml")

with lame_training.load_checkpoint(output) as encoder:
    pictures = encoder.encode_document(sorted(data.glob("images/?.png")))
    scores = encoder.similarity(encoder.encode_query(words), pictures)
print("hit@1 on the training rows:", (scores.argmax(axis=1) == range(len(rows))).mean())
