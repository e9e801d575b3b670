"""Chooses a bundle's golden inputs from a data set and records what contract and PyTorch make of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from lame_runtime.contract.images import ImageSource, open_image
from lame_runtime.contract.preparer import Preparer
from lame_runtime.contract.prompts import Input, Part, Picture, Video
from lame_runtime.contract.rules import ImageRules
from lame_runtime.contract.video import VideoSource, read_video
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.golden import EXTREMES, fingerprint
from lame_runtime.inputs import as_input, as_json
from lame_runtime.retrieval import distinct, key, read_rows, tasks
from lame_training.data import DataSet, read_pairs
from PIL import Image

from lame_export.errors import ExportError

PER_MODALITY = 64
CALIBRATION = 128
"""Calibration inputs per modality."""


def write_golden(data: Path, encoder: Encoder, folder: Path, per_modality: int = PER_MODALITY) -> None:
    """Writes `FOLDER/golden/` with at least `per_modality` inputs of every modality the data has.

    Args:
        data: an MMEB-style data set; evaluation rows are taken first, training rows fill up.
        encoder: PyTorch behind the runtime's seam; its embeddings are the expected ones.
        folder: the bundle under construction.
        per_modality: inputs per modality.

    Raises:
        ExportError: the data has a modality with fewer distinct inputs.
    """
    chosen = _choose(data, per_modality)
    preparer = encoder.preparer
    texts = [item.text for _, item, modality in chosen if modality == "text"]
    chosen += [("document", item, item.modality) for item in composed([item for _, item, _ in chosen], per_modality, preparer)]
    pictures = [part for _, item, _ in chosen for part in item.parts if isinstance(part, Picture)]
    if texts:
        chosen.append(("query", Input(text=longest_text(texts, preparer), instruction=""), EXTREMES[0]))
    images = folder / "golden/images"
    images.mkdir(parents=True)
    if pictures:
        chosen.append(("document", Input(image=largest_picture(pictures[0], preparer), instruction=""), EXTREMES[1]))
    lines, items = [], []
    for number, (role, item, modality) in enumerate(chosen):
        row = as_json(sampled(item, preparer), _Store(folder, f"golden/images/{number:04d}", preparer))
        items.append(as_input(row, folder))
        ids, positions, patches = fingerprint(preparer(items[-1], role), preparer)
        facts = {"modality": modality, "role": role, **row, "ids": ids, "positions": positions, "patches": patches}
        lines.append(json.dumps(facts, ensure_ascii=False))
    vectors = np.stack([encoder.encode(item, role=role)[0] for (role, _, _), item in zip(chosen, items, strict=True)])
    (folder / "golden/inputs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.save(folder / "golden/embeddings.npy", vectors)


def _one_size(source: VideoSource, images: ImageRules) -> VideoSource:
    """Frames that are pictures of several sizes, all at the size of the first."""
    if not isinstance(source, tuple):
        return source
    frames = [open_image(frame, images) for frame in source]
    return tuple(frame.resize(frames[0].size, Image.Resampling.BICUBIC) for frame in frames)


def spread(embeddings: npt.NDArray[np.float32]) -> dict[str, float]:
    """Mean and largest cosine between two golden embeddings: parity of vectors that are all alike would say little."""
    cosines = embeddings @ embeddings.T
    apart = cosines[~np.eye(len(cosines), dtype=bool)]
    return {"mean_cosine": float(apart.mean()), "max_cosine": float(apart.max())} if len(apart) else {}


class _Store:
    """Stores pictures and frames as PNG, numbered, and gives their paths in the bundle."""

    def __init__(self, folder: Path, stem: str, preparer: Preparer) -> None:
        self.folder, self.stem, self.rules, self.count = folder, stem, preparer.contract.images, 0

    def __call__(self, source: ImageSource) -> str:
        name = f"{self.stem}-{self.count}.png" if self.count else f"{self.stem}.png"
        self.count += 1
        open_image(source, self.rules).save(self.folder / name)
        return name


def sampled(item: Input, preparer: Preparer) -> Input:
    """The input with every video as a list of the frames that are used, so that a device needs no decoder."""
    rules, images = preparer.contract.videos, preparer.contract.images
    parts: list[Part] = []
    for part in item.parts:
        if isinstance(part, Video):
            clip = read_video(_one_size(part.source, images), part.fps, rules, images)
            parts.append(Video(tuple(Image.fromarray(frame) for frame in clip.frames), images.temporal_patch_size / clip.seconds_per_patch))
        else:
            parts.append(part)
    return Input(content=tuple(parts), instruction=item.instruction)


def calibration_inputs(data: Path, amount: int, preparer: Preparer, seed: int = 0) -> list[Input]:
    """Training inputs of every modality, `amount` of each: queries and positives of all tasks, and what is composed of them."""
    by_modality: dict[str, list[Input]] = defaultdict(list)
    for item in distinct(_training_inputs(data)):
        by_modality[item.modality].append(item)
    rng = np.random.default_rng(seed)
    picked = [items[int(i)] for items in by_modality.values() for i in rng.permutation(len(items))[:amount]]
    return picked + composed(picked, amount, preparer, seed)


def composed(items: Sequence[Input], amount: int, preparer: Preparer, seed: int = 0) -> list[Input]:
    """Several pictures between texts, and videos with a text, made of a data set's pictures and texts: `amount` of each.

    A video's frames are pictures of the data at the size of the first, two to seven of them, so odd counts too. What the
    contract does not allow, such as three pictures with long texts, is drawn again; where nothing fits, there is none.
    """
    pictures = [part for item in items for part in item.parts if isinstance(part, Picture)]
    texts = [part for item in items for part in item.parts if isinstance(part, str)]
    if not pictures or not texts:
        return []
    rng = np.random.default_rng(seed)

    def some(count: int) -> list[Picture]:
        return [pictures[int(i)] for i in rng.integers(len(pictures), size=count)]

    def text() -> str:
        return texts[int(rng.integers(len(texts)))]

    most = min(7, preparer.contract.videos.max_frames)

    def several() -> Input:
        return Input(content=tuple(part for picture in some(int(rng.integers(2, 4))) for part in (picture, text())))

    def video() -> Input:
        frames = tuple(picture.source for picture in some(int(rng.integers(2, most + 1))))
        return Input(content=(Video(frames, float(rng.choice([0.5, 1.0, 2.0, 5.0]))), text()))

    found = []
    for draw in (several, video):
        fitting: list[Input] = []
        for _ in range(8 * amount):
            if len(fitting) == amount:
                break
            candidate = draw()
            try:
                preparer(sampled(candidate, preparer), "document")
            except InputError:
                continue
            fitting.append(candidate)
        found += fitting
    return found


def _choose(data: Path, per_modality: int, seed: int = 0) -> list[tuple[str, Input, str]]:
    """(role, input, modality) of the golden inputs."""
    rows = [row for task in tasks(data) for row in read_rows(data, task)]
    evaluated = [("query", row.query) for row in rows] + [("document", item) for row in rows for item in row.candidates]
    pools: dict[str, list[tuple[str, Input]]] = defaultdict(list)
    seen = set()
    for role, item in [*evaluated, *(("query", item) for item in _training_inputs(data))]:
        filled = len(pools[item.modality]) >= per_modality and role == "query" and item.instruction is None
        if key(item) not in seen and not filled:  # training rows only fill up
            seen.add(key(item))
            pools[item.modality].append((role, item))
    rng = np.random.default_rng(seed)
    chosen = []
    for modality, pool in sorted(pools.items()):
        if len(pool) < per_modality:
            raise ExportError(f"{data}: has {len(pool)} distinct inputs of kind {modality!r}, golden vectors need {per_modality}; add rows")
        order = rng.permutation(len(pool))[:per_modality]
        chosen += [(*pool[int(i)], modality) for i in order]
    return chosen


def _training_inputs(data: Path) -> Iterator[Input]:
    paths = sorted((data / "train").glob("*.parquet"))
    if not paths:
        raise InputError(f"{data}: has no train/TASK.parquet to calibrate on; --data must name the root of an MMEB-style data set")
    for path in paths:
        for pair in read_pairs(data, DataSet(path.stem, "none")):
            yield pair.query
            yield pair.positive


def longest_text(texts: list[str], preparer: Preparer) -> str:
    """A text of as many words as the contract's `max_length` allows."""
    words = " ".join(texts).split()
    low, high = 1, preparer.contract.tokens.max_length + 1
    while high - low > 1:
        middle = (low + high) // 2
        try:
            preparer(Input(text=" ".join(words[i % len(words)] for i in range(middle)), instruction=""))
            low = middle
        except InputError:
            high = middle
    return " ".join(words[i % len(words)] for i in range(low))


def largest_picture(picture: Picture, preparer: Preparer) -> Image.Image:
    """A picture of the data set enlarged to the contract's pixel budget."""
    rules = preparer.contract.images
    factor = rules.patch_size * rules.merge_size
    side = int(rules.max_pixels**0.5) // factor * factor
    return open_image(picture.source, rules).resize((side, side), Image.Resampling.BICUBIC)
