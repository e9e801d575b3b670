"""Derives TensorRT optimization profiles: the shapes a plan accepts, and those it is tuned for.

There is one profile per bucket of prompt lengths or patch counts. Every profile accepts everything
from the smallest input up; its optimum shape and its largest batch are those of its bucket. A
memory budget decides how large a batch may be. The estimate assumes attention that is not fused,
which needs all attention scores at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, StorageError, UsageError, shown
from lame_runtime.files.json_file import read_json

from lame_export.engine.largest import largest_patches

Ranges = dict[str, tuple[int, int, int]]
"""Minimum, optimum and maximum of each named dimension: one optimization profile."""
Profiles = dict[str, list[Ranges]]
"""Optimization profiles by part ("vision", "encoder"), smallest bucket first."""

# The names of the dynamic axes in the ONNX files, in the order in which messages list them.
DIMENSIONS = {
    "vision": ("pictures", "depth", "patches", "windows"),
    "encoder": ("batch", "length", "n_features"),
}
KINDS = ("latency", "throughput")
# TensorRT tunes kernels for a profile's optimum shape alone. Short inputs therefore get profiles of
# their own instead of running in one that is tuned for the longest prompt.
LENGTHS = {"latency": (64, 256, 1024), "throughput": (128, 512)}
"""Upper ends of the buckets of prompt lengths; the contract's longest prompt ends the last one."""
PATCHES = {"latency": (256, 1024), "throughput": (1024,)}
"""Upper ends of the buckets of patch counts; the contract's largest picture ends the last one."""
LARGEST_BATCH = {"latency": 4, "throughput": 256}
PICTURES_PER_INPUT = 4
"""The vision tower may run this many times as many pictures at once as the encoder runs inputs."""
GIB = 1 << 30
MAX_BYTES = 1 << 20
"""Largest file of profiles in bytes."""
MAX_PROFILES = 64
MAX_WIDTH = 1 << 20
MAX_DIMENSION = (1 << 31) - 1
"""Largest dimension; TensorRT counts them in 32 bits."""
_HALF_BYTES = 2


@dataclass(frozen=True)
class Widths:
    """The widths of one stack of transformer blocks: hidden state, MLP, and number of heads."""

    hidden: int
    mlp: int
    heads: int

    def activation_bytes(self, length: int) -> int:
        """Estimates the largest activations of one sequence in one block, in half precision.

        Counted are the attention scores before and after softmax, and the rows around them: six of
        hidden width and three of MLP width.
        """
        scores = 2 * self.heads * length**2
        rows = length * (6 * self.hidden + 3 * self.mlp)
        return _HALF_BYTES * (scores + rows)


DEFAULT_WIDTHS = {"encoder": Widths(1536, 8960, 12), "vision": Widths(1280, 5120, 16)}
"""The widths of Qwen2-VL-2B, for older bundles whose manifest names none."""


def widths_of(model: Mapping[str, Any]) -> dict[str, Widths]:
    """Returns the widths of both parts from the model facts of a bundle's manifest.

    Raises:
        BundleError: a width is not a positive number that a model can have.
    """
    recorded = model.get("widths", {})
    widths = {
        part: Widths(**recorded[part]) if part in recorded else DEFAULT_WIDTHS[part]
        for part in DIMENSIONS
    }
    for part, own in widths.items():
        if not all(0 < value <= MAX_WIDTH for value in (own.hidden, own.mlp, own.heads)):
            raise BundleError(
                f"manifest.json: model.widths.{part} is {own}, which no model has; "
                "copy or export the bundle again"
            )
    return widths


def derive_profiles(
    contract: Contract, widths: Mapping[str, Widths], kind: str, memory: int
) -> Profiles:
    """Returns profiles that accept every input a contract accepts.

    Args:
        contract: its longest prompt and its largest picture or video frame bound the last profiles.
        widths: of the vision tower and the encoder.
        kind: "latency" (small batches) or "throughput" (batches as large as memory allows).
        memory: bytes for the activations of one run.

    Raises:
        UsageError: one input alone needs more than `memory`.
    """
    encoder = _encoder_profiles(contract, widths["encoder"], kind, memory)
    vision = _vision_profiles(contract, widths["vision"], kind, memory)
    return {"vision": vision, "encoder": encoder}


def _encoder_profiles(contract: Contract, widths: Widths, kind: str, memory: int) -> list[Ranges]:
    # The K reason tokens and [EMBED] follow every prompt, and the shortest prompt is one token.
    longest = contract.tokens.max_length + contract.tokens.n_latents
    shortest = contract.tokens.n_latents + 1
    buckets = [length for length in LENGTHS[kind] if shortest < length < longest]
    profiles = []
    for length in (*buckets, longest):
        batch = _largest_batch(
            widths.activation_bytes(length),
            memory,
            LARGEST_BATCH[kind],
            f"an input of {length} tokens",
        )
        optimum = _optimum_batch(kind, batch)
        profiles.append(
            {
                "batch": (1, optimum, batch),
                "length": (shortest, length, length),
                # Row 0 of the features is zeros, for tokens that are no picture's: hence one row
                # more than tokens. The optimum is a batch of which half the tokens are pictures'.
                "n_features": (1, max(1, optimum * length // 2), batch * length + 1),
            }
        )
    return profiles


def _vision_profiles(contract: Contract, widths: Widths, kind: str, memory: int) -> list[Ranges]:
    merged = contract.images.merge_size**2
    largest = largest_patches(contract)
    buckets = [patches for patches in PATCHES[kind] if patches < largest]
    profiles = []
    for bucket in (*buckets, largest):
        # A grid consists of whole merge blocks, so only multiples of one can occur.
        patches = math.ceil(bucket / merged) * merged
        pictures = _largest_batch(
            widths.activation_bytes(patches),
            memory,
            LARGEST_BATCH[kind] * PICTURES_PER_INPUT,
            f"a picture or frame of {patches} patches",
        )
        windows = _most_windows(patches, contract)
        profiles.append(
            {
                "pictures": (1, _optimum_batch(kind, pictures), pictures),
                "depth": depth_range(contract),
                "patches": (merged, patches, patches),
                "windows": (1, max(1, windows // 2), windows),
            }
        )
    return profiles


def depth_range(contract: Contract) -> tuple[int, int, int]:
    """Returns the range of frames per temporal patch; the optimum is 1, for pictures."""
    return 1, 1, contract.images.temporal_patch_size


def _largest_batch(bytes_each: int, memory: int, limit: int, description: str) -> int:
    """Returns how many inputs of one size fit into memory, at most `limit`."""
    if bytes_each > memory:
        raise UsageError(
            f"{description} needs {bytes_each / GIB:.2f} GiB of activations, and `memory` allows "
            f"{memory / GIB:.2f} GiB; raise it, or give a file of smaller profiles as `profile`"
        )
    return min(limit, memory // bytes_each)


def _optimum_batch(kind: str, largest: int) -> int:
    """Returns the batch size to tune for: one input for latency, a full batch for throughput."""
    return 1 if kind == "latency" else largest


def _most_windows(patches: int, contract: Contract) -> int:
    """Returns an upper bound of the attention windows (Qwen2.5-VL) of any grid of `patches`.

    Rows and columns are cut into windows separately, so a grid of R × C tokens has at most
    (R/w + 1)(C/w + 1) windows of side w, and R + C is at most R·C + 1.
    """
    side = contract.tower.window
    if not side:
        return 1
    longest = patches // contract.images.merge_size + contract.images.merge_size
    return math.ceil(patches / side**2 + longest / side) + 1


def read_profiles(path: Path, contract: Contract) -> Profiles:
    """Reads profiles from a JSON file.

    The file holds a list of profiles per part, and each profile three numbers per dimension:
    `{"vision": [{"pictures": [1, 4, 8], "patches": […], …}, …], "encoder": […]}`. If a profile of
    vision omits `depth`, it accepts both pictures and videos.

    Raises:
        StorageError: the file cannot be read.
        UsageError: it is not JSON, names an unknown dimension, or gives a dimension something other
            than three ascending positive numbers.
    """
    remedy = "give `profile` latency, throughput or a JSON file of profiles"
    try:
        raw = read_json(path, MAX_BYTES)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UsageError(f"{path}: cannot be read ({shown(error)}); {remedy}") from None
    profiles: Profiles = {}
    for part in DIMENSIONS:
        buckets = raw.get(part) if isinstance(raw, dict) else None
        if not isinstance(buckets, list) or not 0 < len(buckets) <= MAX_PROFILES:
            raise UsageError(
                f"{path}: has no list of profiles named {part!r} (1 to {MAX_PROFILES}); add one"
            )
        profiles[part] = [_read_profile(path, part, bucket, contract) for bucket in buckets]
    return profiles


def _read_profile(path: Path, part: str, bucket: Any, contract: Contract) -> Ranges:
    known = set(DIMENSIONS[part])
    # Only Qwen2.5-VL has windows, and depth has a default, so a profile may omit both.
    optional: Ranges = (
        {"windows": (1, 1, 1), "depth": depth_range(contract)} if part == "vision" else {}
    )
    required = known - set(optional)
    if not isinstance(bucket, dict) or not required <= set(bucket) <= known:
        raise UsageError(
            f"{path}: a profile of {part} names the dimensions {', '.join(DIMENSIONS[part])}"
        )
    ranges = dict(optional)
    for name, values in bucket.items():
        ranges[name] = _read_range(path, f"{part}.{name}", values)
    return ranges


def _read_range(path: Path, name: str, values: Any) -> tuple[int, int, int]:
    # `type(...) is int`, because isinstance would let JSON's true and false through as 1 and 0
    numbers = isinstance(values, list) and all(
        type(value) is int and 0 < value <= MAX_DIMENSION for value in values
    )
    if not numbers or len(values) != 3:
        raise UsageError(
            f"{path}: {name} is {shown(repr(values))}; give three positive numbers up to "
            f"{MAX_DIMENSION:,}"
        )
    minimum, optimum, maximum = values
    if not minimum <= optimum <= maximum:
        raise UsageError(
            f"{path}: {name} is {values}; give minimum, optimum and maximum in ascending order"
        )
    return minimum, optimum, maximum
