"""Chooses a bundle's golden inputs, and records their token ids, hashes and embeddings."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lame_runtime.bundle.golden import EXTREMES, as_json, fingerprint
from lame_runtime.contract.media.images import ImageSource, open_image
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input, Picture, input_key
from lame_runtime.encoder import Encoder
from lame_runtime.errors import ExportError
from lame_runtime.inputs import as_input
from lame_training.evaluation.retrieval import read_rows, tasks

from lame_export.parity.calibration_inputs import RoleInput, training_inputs
from lame_export.parity.made_inputs import composed, largest_picture, longest_text, sampled

PER_MODALITY = 64
"""Default number of golden inputs of each modality."""
Choice = tuple[str, Input, str]
"""Role, input and modality of a golden input."""


def write_golden(
    data: Path, encoder: Encoder, folder: Path, per_modality: int = PER_MODALITY
) -> None:
    """Writes `FOLDER/golden/` with `per_modality` or more inputs of every modality in the data.

    Args:
        data: an MMEB-style data set; training rows are used only if evaluation rows run out.
        encoder: PyTorch behind the runtime's `Encoder`; its embeddings are the expected ones.
        folder: the bundle under construction.
        per_modality: number of inputs of each modality.

    Raises:
        ExportError: the data has a modality with fewer distinct inputs.
    """
    preparer = encoder.preparer
    choices = _choose(data, per_modality)
    texts = [item.text for _, item, modality in choices if modality == "text"]
    # inputs with several pictures or a video, which most data sets lack
    mixed = composed([item for _, item, _ in choices], per_modality, preparer)
    choices += [("document", item, item.modality) for item in mixed]
    pictures = [part for _, item, _ in choices for part in item.parts if isinstance(part, Picture)]
    if texts:
        text = Input(text=longest_text(texts, preparer), instruction="")
        choices.append(("query", text, EXTREMES[0]))
    if pictures:
        picture = Input(image=largest_picture(pictures[0], preparer), instruction="")
        choices.append(("document", picture, EXTREMES[1]))
    (folder / "golden/images").mkdir(parents=True)
    lines, vectors = [], []
    for number, choice in enumerate(choices):
        facts, vector = _record(choice, number, encoder, folder)
        lines.append(json.dumps(facts, ensure_ascii=False))
        vectors.append(vector)
    (folder / "golden/inputs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / "golden/embeddings.npy", np.stack(vectors))


def spread(embeddings: npt.NDArray[np.float32]) -> dict[str, float]:
    """Returns mean and largest cosine between two golden embeddings.

    If all vectors were alike, their parity would mean little, so the certificate reports these.
    """
    cosines = embeddings @ embeddings.T
    others = cosines[~np.eye(len(cosines), dtype=bool)]
    # a single golden input has no pairs
    if not len(others):
        return {}
    return {"mean_cosine": float(others.mean()), "max_cosine": float(others.max())}


def _record(
    choice: Choice, number: int, encoder: Encoder, folder: Path
) -> tuple[dict[str, Any], npt.NDArray[np.float32]]:
    """Stores one golden input, and returns its line of `inputs.jsonl` and its embedding."""
    role, item, modality = choice
    preparer = encoder.preparer
    store = _PictureStore(folder, f"golden/images/{number:04d}", preparer)
    row = as_json(sampled(item, preparer), store)
    # read back from the files, because a device computes its ids, hashes and vectors from them
    stored = as_input(row, folder)
    ids, positions, patches = fingerprint(preparer(stored, role), preparer)
    facts = {
        "modality": modality,
        "role": role,
        **row,
        "ids": ids,
        "positions": positions,
        "patches": patches,
    }
    return facts, encoder.encode(stored, role=role)[0]


class _PictureStore:
    """Stores the pictures of one input as numbered PNG files and returns their paths."""

    def __init__(self, folder: Path, stem: str, preparer: Preparer) -> None:
        self.folder, self.stem, self.rules, self.count = folder, stem, preparer.contract.images, 0

    def __call__(self, source: ImageSource) -> str:
        name = f"{self.stem}-{self.count}.png" if self.count else f"{self.stem}.png"
        self.count += 1
        # PNG is lossless: a JPEG would change the pixels that the hashes cover
        open_image(source, self.rules).save(self.folder / name)
        return name


def _choose(data: Path, per_modality: int, seed: int = 0) -> list[Choice]:
    """Chooses golden inputs of the data at random, modality by modality."""
    chosen: list[Choice] = []
    rng = np.random.default_rng(seed)
    # sorted, because the random choices depend on the order of the modalities
    for modality, pool in sorted(_pools(data, per_modality).items()):
        if len(pool) < per_modality:
            raise ExportError(
                f"{data}: has {len(pool)} distinct inputs of kind {modality!r}, "
                f"golden vectors need {per_modality}; add rows"
            )
        order = rng.permutation(len(pool))[:per_modality]
        chosen += [(*pool[int(index)], modality) for index in order]
    return chosen


def _pools(data: Path, per_modality: int) -> dict[str, list[RoleInput]]:
    """Returns the data's distinct inputs by modality, evaluation rows before training rows."""
    rows = [row for task in tasks(data) for row in read_rows(data, task)]
    # evaluation rows first: the model was not trained on them, so they resemble users' inputs
    candidates = [("query", row.query) for row in rows]
    candidates += [("document", item) for row in rows for item in row.candidates]
    candidates += [("query", item) for _, item in training_inputs(data)]
    pools: dict[str, list[RoleInput]] = defaultdict(list)
    seen = set()
    for role, item in candidates:
        pool = pools[item.modality]
        # training inputs are added only while there are fewer than `per_modality`
        filled = len(pool) >= per_modality and role == "query" and item.instruction is None
        if input_key(item) not in seen and not filled:
            seen.add(input_key(item))
            pool.append((role, item))
    return pools
