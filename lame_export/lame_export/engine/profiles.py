"""Optimisation profiles: for which shapes a plan is built, and for which it is tuned.

One profile per bucket of lengths or patches. Each takes everything from the smallest input up; its tuning point and its
largest batch are those of its bucket. How large a batch may be follows from a memory budget: attention that is not
fused needs all scores at once, and that is what is reckoned with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.contract import Contract
from lame_runtime.errors import InputError

from lame_export.engine.largest import largest_patches

Ranges = dict[str, tuple[int, int, int]]
"""Smallest, usual and largest value of named dimensions."""
Profiles = dict[str, list[Ranges]]
"""Per part, smallest bucket first."""

DIMENSIONS = {"vision": ("pictures", "patches", "windows"), "encoder": ("batch", "length", "n_features")}
KINDS = ("latency", "throughput")
LENGTHS = {"latency": (64, 256, 1024), "throughput": (128, 512)}
PATCHES = {"latency": (256, 1024), "throughput": (1024,)}
"""Upper ends of the buckets below the largest input the contract lets through, which is the last bucket's."""
LARGEST_BATCH = {"latency": 4, "throughput": 256}
GIB = 1 << 30
_HALF = 2


@dataclass(frozen=True)
class Widths:
    """Of one stack of blocks: hidden width, width of the MLP, attention heads."""

    hidden: int
    mlp: int
    heads: int

    def bytes_of(self, length: int) -> int:
        """Largest activations of one sequence in one block, in half: scores before and after softmax, and the rows around them."""
        return _HALF * (2 * self.heads * length**2 + length * (6 * self.hidden + 3 * self.mlp))


OF_2B = {"encoder": Widths(1536, 8960, 12), "vision": Widths(1280, 5120, 16)}
"""Qwen2-VL-2B's, for bundles whose manifest does not say."""


def widths_of(model: Mapping[str, Any]) -> dict[str, Widths]:
    """From the facts of a manifest."""
    found = model.get("widths", {})
    return {part: Widths(**found[part]) if part in found else OF_2B[part] for part in DIMENSIONS}


def derive(contract: Contract, widths: Mapping[str, Widths], kind: str, memory: int) -> Profiles:
    """Profiles for a contract.

    Args:
        contract: the longest prompt, and the largest picture or frame of a video, that it lets through are the largest input.
        widths: of the vision tower and the encoder.
        kind: "latency" (small batches) or "throughput" (as large as memory allows).
        memory: bytes for the activations of one run.

    Raises:
        InputError: the largest input by itself needs more than `memory`.
    """
    longest = contract.tokens.max_length + contract.tokens.n_reason + 1
    shortest = contract.tokens.n_reason + 2
    area = contract.images.merge_size**2
    largest = largest_patches(contract)
    encoder, vision = [], []
    for length in (*(each for each in LENGTHS[kind] if shortest < each < longest), longest):
        batch = _fitting(widths["encoder"].bytes_of(length), memory, LARGEST_BATCH[kind], f"an input of {length} tokens")
        features = batch * length + 1
        encoder.append(
            {
                "batch": (1, _usual(kind, batch), batch),
                "length": (shortest, length, length),
                "n_features": (1, max(1, _usual(kind, batch) * length // 2), features),
            }
        )
    for patches in (*(each for each in PATCHES[kind] if each < largest), largest):
        patches = -(-patches // area) * area
        pictures = _fitting(widths["vision"].bytes_of(patches), memory, LARGEST_BATCH[kind] * 4, f"a picture or frame of {patches} patches")
        windows = _windows(patches, contract)
        vision.append(
            {
                "pictures": (1, _usual(kind, pictures), pictures),
                "patches": (area, patches, patches),
                "windows": (1, max(1, windows // 2), windows),
            }
        )
    return {"vision": vision, "encoder": encoder}


def _fitting(each: int, memory: int, most: int, what: str) -> int:
    if each > memory:
        need, have = each / GIB, memory / GIB
        raise InputError(
            f"{what} needs {need:.2f} GiB of activations and --memory allows {have:.2f}; raise it, or give a file of smaller profiles"
        )
    return min(most, memory // each)


def _usual(kind: str, most: int) -> int:
    return 1 if kind == "latency" else most


def _windows(patches: int, contract: Contract) -> int:
    """At most so many windows, of whatever grid: as rows and columns are each cut on their own."""
    side = contract.tower.window
    if not side:
        return 1
    longest = patches // contract.images.merge_size + contract.images.merge_size
    return math.ceil(patches / side**2 + longest / side) + 1


def read_profiles(path: Path) -> Profiles:
    """Profiles from a JSON file: {"vision": [{"pictures": [1, 4, 8], "patches": […], …}, …], "encoder": […]}.

    Raises:
        InputError: unreadable, an unknown dimension, or not three ascending numbers.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give latency, throughput or a JSON file of profiles") from None
    found: Profiles = {}
    for part, dimensions in DIMENSIONS.items():
        buckets = raw.get(part) if isinstance(raw, dict) else None
        if not isinstance(buckets, list) or not buckets:
            raise InputError(f"{path}: has no list of profiles named {part!r}")
        found[part] = [_read_bucket(path, part, dimensions, bucket) for bucket in buckets]
    return found


def _read_bucket(path: Path, part: str, dimensions: tuple[str, ...], bucket: Any) -> Ranges:
    if not isinstance(bucket, dict) or set(bucket) - set(dimensions) or set(dimensions) - set(bucket) - {"windows"}:
        raise InputError(f"{path}: a profile of {part} names the dimensions {', '.join(dimensions)}")
    ranges: Ranges = {"windows": (1, 1, 1)} if part == "vision" else {}
    for name, values in bucket.items():
        if not (isinstance(values, list) and len(values) == 3 and all(type(each) is int and each > 0 for each in values)):
            raise InputError(f"{path}: {part}.{name} is {values!r}: give three positive numbers")
        if values != sorted(values):
            raise InputError(f"{path}: {part}.{name} is {values!r}: smallest, usual and largest ascend")
        ranges[name] = (values[0], values[1], values[2])
    return ranges
