"""The dataclasses behind `contract.json`, and how it is read and written.

Their field names are the keys of the file, so a renamed field is a new version of the format.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from lame_runtime.contract.fields.prompt_layout import PromptLayout
from lame_runtime.contract.fields.token_rules import TokenId, TokenRules
from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError, shown
from lame_runtime.files.constraints import Between, Name
from lame_runtime.files.json_file import parse_json
from lame_runtime.files.regular import read_regular

__all__ = [
    "Contract",
    "ImageRules",
    "Limits",
    "PromptLayout",
    "TokenId",
    "TokenRules",
    "TowerRules",
    "VideoRules",
]

# Raised whenever a field is added, removed or given a new meaning, or the graphs' inputs change.
# Older versions of the runtime then refuse the file instead of embedding differently.
CONTRACT_VERSION = 5
OLDEST_BUNDLE_VERSION = 4
"""Oldest version of a bundle; the fields added since have defaults that mean what it meant."""
OLDEST_CHECKPOINT_VERSION = 2
"""Oldest version of a checkpoint: it has no graphs, whose inputs changed since."""

MAX_CONTRACT_BYTES = 4 << 20
"""Largest `contract.json` that is read; they take about 2 kB."""

# The ranges below leave ample room above every published model: ten times at least, most often
# more. Their purpose is that no contract makes the runtime divide by zero, allocate without
# measure or embed by senseless rules; `contradictions` relates the fields to each other.
FrameCount = Annotated[int, Between(1, 65_536)]
Pixels = Annotated[int, Between(1, 1 << 28)]
LowestPixels = Annotated[int, Between(1, 1 << 22)]
"""An area that small pictures are enlarged to, so it decides what the smallest input costs."""
Mean = Annotated[float, Between(-100, 100)]
Std = Annotated[float, Between(1e-3, 1000)]
Means = tuple[Mean, Mean, Mean]
Stds = tuple[Std, Std, Std]


@dataclass(frozen=True)
class ImageRules:
    """How a picture becomes patches. Sizes are in pixels."""

    patch_size: Annotated[int, Between(1, 256)]
    """Side of a patch."""
    temporal_patch_size: Annotated[int, Between(1, 32)]
    """Frames in a patch; a picture is repeated to fill it."""
    merge_size: Annotated[int, Between(1, 32)]
    """Side, in patches, of the block that becomes one vision token."""
    min_pixels: LowestPixels
    """Smallest area that a picture is resized to."""
    max_pixels: Pixels
    """Largest area that a picture is resized to."""
    mean: Means
    """Mean of each RGB channel, on the 0..1 scale."""
    std: Stds
    """Standard deviation of each RGB channel, on the 0..1 scale."""
    max_source_pixels: Annotated[int, Between(1, 1 << 30)] = 89_478_485
    """Largest picture that is decoded. Larger ones are refused by their header alone, since a few
    kilobytes can hold gigapixels (a decompression bomb). The default is Pillow's own limit."""

    @property
    def patch_dim(self) -> int:
        """Length of one flattened patch: channels × temporal × height × width."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class VideoRules:
    """How a video becomes frames and patches; the patch geometry is that of pictures."""

    fps: Annotated[float, Between(1e-3, 1e4)]
    """Frames sampled per second of video."""
    min_frames: FrameCount
    max_frames: FrameCount
    sampling: Literal["stride", "linspace"]
    """Spacing of the sampled frames.

    "stride" takes equal steps from the first frame (Qwen2-VL, Qwen2.5-VL), "linspace" spreads them
    evenly from the first to the last (Qwen3-VL).
    """
    min_pixels: LowestPixels
    max_pixels: Pixels
    pixels_of: Literal["frame", "clip"]
    """Area that the two pixel limits count: one frame's (Qwen2-VL, Qwen2.5-VL), or frames × height
    × width (Qwen3-VL)."""
    cap_pixels_per_frame: bool
    """Whether `max_video_tokens` limits the area as well."""
    max_video_tokens: Annotated[int, Between(1, 1 << 22)]
    """With `pixels_of` "frame", 0.9 × this many tokens for a whole video; with "clip", this many
    tokens for one frame."""
    tokens_per_second: Annotated[float, Between(0, 1000)]
    """M-RoPE's temporal positions per second (Qwen2.5-VL); 0 counts temporal patches one by one."""
    timestamps: bool
    """Whether each temporal patch stands between vision tokens of its own, after its time as text
    (Qwen3-VL)."""
    mean: Means
    """Mean of each RGB channel, on the 0..1 scale."""
    std: Stds
    """Standard deviation of each RGB channel, on the 0..1 scale."""


@dataclass(frozen=True)
class TowerRules:
    """Tables that the vision tower needs besides rows and columns; 0 if its family needs none."""

    window: Annotated[int, Between(0, 256)] = 0
    """Side of an attention window in patches (Qwen2.5-VL)."""
    position_side: Annotated[int, Between(0, 1024)] = 0
    """Side of the learned grid of position embeddings that is interpolated (Qwen3-VL)."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one input, so that no request exhausts the memory."""

    visuals: Annotated[int, Between(1, 4096)]
    """Number of pictures and videos."""
    patches: Annotated[int, Between(1, 1 << 22)]
    """Number of patches of all of them together, before merging."""


@dataclass(frozen=True)
class Contract:
    """Everything that training and deployment agree on, as `contract.json` holds it."""

    family: Name
    """Backbone family, such as "qwen2_5_vl"."""
    dim: Annotated[int, Between(1, 65_536)]
    """Length P of the vectors."""
    prompt: PromptLayout
    tokens: TokenRules
    images: ImageRules
    videos: VideoRules
    tower: TowerRules
    limits: Limits
    # Last, because it has a default: the file has the order of the fields.
    contract_version: Annotated[int, Between(CONTRACT_VERSION, CONTRACT_VERSION)] = CONTRACT_VERSION

    def to_json(self) -> str:
        """Returns the text of `contract.json`.

        Raises:
            BundleError: a field is out of its range, or fields contradict each other.
        """
        # The manifest holds the hash of these bytes: any other layout would be another file.
        # Prompts may be in any script, and escaped nobody could read them.
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        # What no runtime would read must not be written, least of all at the end of a training.
        Contract.from_json(text, "the contract", "choose other settings")
        return text

    @staticmethod
    def from_json(
        text: str | bytes,
        source: str = "contract.json",
        remedy: str = "export the bundle again",
        *,
        oldest: int = OLDEST_BUNDLE_VERSION,
    ) -> Contract:
        """Reads the text that `to_json` returned.

        Args:
            text: the file's content.
            source: the file's name, for messages.
            remedy: how to get a contract that can be read; messages end with it.
            oldest: the oldest version to read. A checkpoint's may be `OLDEST_CHECKPOINT_VERSION`.

        Raises:
            BundleError: not JSON, an unknown version, a missing, extra or mistyped field, a value
                out of its range, or fields that contradict each other.
        """
        try:
            raw = parse_json(text, strict=True)
        except ValueError as error:
            raise BundleError(f"{shown(source)}: not JSON ({error}); {remedy}") from None
        # Before the fields: another version has other fields, and its remedy is another one.
        version = raw.get("contract_version") if isinstance(raw, dict) else None
        # `type`, because JSON's 2.0 would equal 2
        if type(version) is not int or not oldest <= version <= CONTRACT_VERSION:
            again_helps = isinstance(version, int) and version < CONTRACT_VERSION
            known = f"{oldest} to {CONTRACT_VERSION}"
            # a checkpoint is not exported
            again = "export it again" if oldest == OLDEST_BUNDLE_VERSION else "train it again"
            raise BundleError(
                f"{shown(source)}: contract_version {shown(repr(version))} is not known here "
                f"(known: {known}); {again if again_helps else 'upgrade lame-runtime'}"
            )
        raw["contract_version"] = CONTRACT_VERSION
        # an accepted older version lacks the fields that were added since
        is_older = version < CONTRACT_VERSION
        contract = from_json_object(Contract, raw, source, remedy, defaults=is_older)
        for problem in contradictions(contract):
            raise BundleError(f"{shown(source)}: {problem}; {remedy}")
        return contract

    @staticmethod
    def load(path: Path, *, oldest: int = OLDEST_BUNDLE_VERSION) -> Contract:
        """Reads the file `contract.json` at `path`.

        Args:
            path: the file.
            oldest: see `from_json`.

        Raises:
            BundleError: the file cannot be read, is no contract, or has a version that is not
                accepted.
        """
        try:
            text = read_regular(path, MAX_CONTRACT_BYTES)
        except OSError as error:
            raise BundleError(
                f"{shown(path)}: cannot be read ({error.strerror}); is this a LaME bundle or "
                "checkpoint?"
            ) from None
        return Contract.from_json(text, str(path), oldest=oldest)


def contradictions(contract: Contract) -> Iterator[str]:
    """Yields what is wrong between fields that are each in their range."""
    tokens, images, videos = contract.tokens, contract.images, contract.videos
    merged = (images.patch_size * images.merge_size) ** 2
    block = "(images.patch_size × images.merge_size)²"
    most_pixels = contract.limits.patches * images.patch_size**2
    # text and pads have rows before those of the latent tokens
    last_text = tokens.first_latent - 1
    for smaller, value, larger, bound in (
        ("tokens.image_pad", tokens.image_pad, "tokens.first_latent - 1", last_text),
        ("tokens.video_pad", tokens.video_pad, "tokens.first_latent - 1", last_text),
        ("tokens.pad", tokens.pad, "tokens.first_latent - 1", last_text),
        (block, merged, "images.max_pixels", images.max_pixels),
        (block, merged, "videos.max_pixels", videos.max_pixels),
        ("images.min_pixels", images.min_pixels, "images.max_pixels", images.max_pixels),
        ("videos.min_pixels", videos.min_pixels, "videos.max_pixels", videos.max_pixels),
        (block, merged, "limits.patches × images.patch_size²", most_pixels),
        (
            "images.min_pixels",
            images.min_pixels,
            "limits.patches × images.patch_size²",
            most_pixels,
        ),
        ("videos.min_frames", videos.min_frames, "videos.max_frames", videos.max_frames),
        (
            "images.temporal_patch_size",
            images.temporal_patch_size,
            "videos.max_frames",
            videos.max_frames,
        ),
    ):
        if value > bound:
            yield f"{smaller} is {value:,}: must be at most {larger}, which is {bound:,}"
    for name in ("mean", "std"):
        picture, video = getattr(images, name), getattr(videos, name)
        if picture != video:
            yield (
                f"videos.{name} is {list(video)}: must be images.{name}, {list(picture)}, because "
                "the vision graph normalizes both alike"
            )
    if contract.tower.window % images.merge_size:
        yield (
            f"tower.window is {contract.tower.window}: must be a multiple of images.merge_size, "
            f"which is {images.merge_size}"
        )
    yield from tokens.contradictions()
    yield from contract.prompt.contradictions()
