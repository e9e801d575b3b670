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
from lame_runtime.retrieval import key, read_rows, tasks
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


ANY = "any text"
"""The modality of texts of random tokens."""
ANY_TEXTS = 8
"""Texts of random tokens that quantisation is tried on."""
Asked = tuple[str, Input]
"""An input and the role it is embedded in."""


def calibration_inputs(data: Path, amount: int, preparer: Preparer, seed: int = 0) -> list[Asked]:
    """Training inputs of every modality, `amount` of each: queries and positives of all tasks, and what is composed of them."""
    by_modality: dict[str, list[Asked]] = defaultdict(list)
    seen = set()
    for role, item in _training_inputs(data):
        if key(item) not in seen:
            seen.add(key(item))
            by_modality[item.modality].append((role, item))
    rng = np.random.default_rng(seed)
    picked = [items[int(i)] for items in by_modality.values() for i in rng.permutation(len(items))[:amount]]
    return picked + [("document", item) for item in composed([item for _, item in picked], amount, preparer, seed)]


def held_out(
    inputs: Sequence[Asked], preparer: Preparer, share: int = 4, most: int = 16
) -> tuple[dict[str, list[Asked]], dict[str, list[Asked]]]:
    """By modality, inputs to calibrate on and those to try the outcome on: every `share`-th, `most` at most.

    A modality with fewer inputs than `share` is used for both. Both have, as modalities of their own, a text as long and a
    picture as large as the contract allows, and texts of random tokens: users' inputs are not all like the data.
    """
    by_modality: dict[str, list[Asked]] = defaultdict(list)
    for role, item in inputs:
        by_modality[item.modality].append((role, item))
    measured: dict[str, list[Asked]] = {}
    trial: dict[str, list[Asked]] = {}
    for modality, items in by_modality.items():
        kept = range(0, len(items), share)[:most] if len(items) >= share else range(0)
        trial[modality] = [items[place] for place in kept] or items
        measured[modality] = [item for place, item in enumerate(items) if place not in kept]
    for some in (measured, trial):
        parts = [part for items in list(some.values()) for _, item in items for part in item.parts]
        texts = [part for part in parts if isinstance(part, str)]
        pictures = [part for part in parts if isinstance(part, Picture)]
        if texts:
            some[EXTREMES[0]] = [("query", Input(text=longest_text(texts, preparer), instruction=""))]
        if pictures:
            some[EXTREMES[1]] = [("document", Input(image=largest_picture(pictures[0], preparer), instruction=""))]
    rng = np.random.default_rng(0)
    measured[ANY], trial[ANY] = (
        [("query", Input(text=any_text(preparer, rng), instruction="")) for _ in range(count)] for count in (3 * ANY_TEXTS, ANY_TEXTS)
    )
    return measured, trial


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
    for role, item in [*evaluated, *(("query", item) for _, item in _training_inputs(data))]:
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


def _training_inputs(data: Path) -> Iterator[Asked]:
    paths = sorted((data / "train").glob("*.parquet"))
    if not paths:
        raise InputError(f"{data}: has no train/TASK.parquet to calibrate on; --data must name the root of an MMEB-style data set")
    for path in paths:
        for pair in read_pairs(data, DataSet(path.stem, "none")):
            yield "query", pair.query
            yield "document", pair.positive


def any_text(preparer: Preparer, rng: np.random.Generator) -> str:
    """A text of random tokens of the whole vocabulary, up to 32 of them and no longer than the contract allows."""
    for length in (32, 16, 8, 4, 2, 1):
        text = preparer.tokenizer.decode([int(each) for each in rng.integers(preparer.tokenizer.size, size=length)])
        try:
            preparer(Input(text=text, instruction=""), "query")
        except InputError:
            continue
        return text
    return ""


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
