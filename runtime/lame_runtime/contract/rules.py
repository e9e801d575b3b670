"""The dataclasses behind `contract.json`, and how it is read and written.

Their field names are the keys of the file, so a renamed field is a new version of the format.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lame_runtime.contract.strict_json import from_json_object
from lame_runtime.errors import BundleError

# Raised whenever a field is added, removed or gets another meaning. Older versions of the runtime
# then refuse the file instead of embedding differently.
CONTRACT_VERSION = 2


@dataclass(frozen=True)
class PromptLayout:
    """How an input becomes one string. `<|…|>` tokens inside these strings are special tokens.

    The order is `prefix`, the input's parts in their own order, `suffix`. The instruction stands
    before the first text, joined to it by `separator`, or behind the last part if there is no text.
    """

    prefix: str
    suffix: str
    separator: str
    roles: dict[str, str]
    """Instruction for each role ("query", "document"), for inputs that have none of their own."""
    image_open: str = "<|vision_start|>"
    """Stands before a picture's vision tokens."""
    image_close: str = "<|vision_end|>"
    """Stands behind a picture's vision tokens."""
    video_open: str = "<|vision_start|>"
    """Stands before a video's vision tokens."""
    video_close: str = "<|vision_end|>"
    """Stands behind a video's vision tokens."""


@dataclass(frozen=True)
class TokenRules:
    """Ids of the tokens that the contract places itself, and the number of latent rows."""

    image_pad: int
    """Id of a picture's vision tokens."""
    video_pad: int
    """Id of a video's vision tokens."""
    pad: int
    """Id that shorter rows of a batch are filled with."""
    first_latent: int
    """Id of [REASON]_0; [REASON]_i is `first_latent + i`, [EMBED] is `first_latent + n_reason`."""
    n_reason: int
    """Number K of reason tokens behind the prompt; [EMBED] follows them."""
    max_length: int
    """Longest prompt in tokens, pictures included, latent rows excluded."""


@dataclass(frozen=True)
class ImageRules:
    """How a picture becomes patches. Sizes are in pixels."""

    patch_size: int
    """Side of a patch."""
    temporal_patch_size: int
    """Frames in a patch; a picture is repeated to fill it."""
    merge_size: int
    """Side, in patches, of the block that becomes one vision token."""
    min_pixels: int
    """Smallest area that a picture is resized to."""
    max_pixels: int
    """Largest area that a picture is resized to."""
    mean: tuple[float, float, float]
    """Mean of each RGB channel, on the 0..1 scale."""
    std: tuple[float, float, float]
    """Standard deviation of each RGB channel, on the 0..1 scale."""
    max_source_pixels: int = 89_478_485
    """Largest picture that is decoded. Larger ones are refused by their header alone, since a few
    kilobytes can hold gigapixels (a decompression bomb). The default is Pillow's own limit."""

    @property
    def patch_dim(self) -> int:
        """Length of one flattened patch: channels × temporal × height × width."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class VideoRules:
    """How a video becomes frames and patches; the patch geometry is that of pictures."""

    fps: float
    """Frames sampled per second of video."""
    min_frames: int
    max_frames: int
    sampling: Literal["stride", "linspace"]
    """Spacing of the sampled frames.

    "stride" takes equal steps from the first frame (Qwen2-VL, Qwen2.5-VL), "linspace" spreads them
    evenly from the first to the last (Qwen3-VL).
    """
    min_pixels: int
    max_pixels: int
    pixels_of: Literal["frame", "clip"]
    """Area that the two pixel limits count: one frame's (Qwen2-VL, Qwen2.5-VL), or frames × height
    × width (Qwen3-VL)."""
    cap_pixels_per_frame: bool
    """Whether `max_video_tokens` limits the area as well."""
    max_video_tokens: int
    """With `pixels_of` "frame", 0.9 × this many tokens for a whole video; with "clip", this many
    tokens for one frame."""
    tokens_per_second: float
    """M-RoPE's temporal positions per second (Qwen2.5-VL); 0 counts temporal patches one by one."""
    timestamps: bool
    """Whether each temporal patch stands between vision tokens of its own, behind its time as text
    (Qwen3-VL)."""
    mean: tuple[float, float, float]
    """Mean of each RGB channel, on the 0..1 scale."""
    std: tuple[float, float, float]
    """Standard deviation of each RGB channel, on the 0..1 scale."""


@dataclass(frozen=True)
class TowerRules:
    """Tables that the vision tower needs beside rows and columns; 0 if its family needs none."""

    window: int = 0
    """Side of an attention window in patches (Qwen2.5-VL)."""
    position_side: int = 0
    """Side of the learned grid of position embeddings that is interpolated (Qwen3-VL)."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one input, so that no request exhausts the memory."""

    visuals: int
    """Number of pictures and videos."""
    patches: int
    """Number of patches of all of them together, before merging."""


@dataclass(frozen=True)
class Contract:
    """Everything that training and deployment agree on, as `contract.json` holds it."""

    family: str
    """Backbone family, such as "qwen2_5_vl"."""
    dim: int
    """Length P of the vectors."""
    prompt: PromptLayout
    tokens: TokenRules
    images: ImageRules
    videos: VideoRules
    tower: TowerRules
    limits: Limits
    # Last, because it has a default: the file has the order of the fields.
    contract_version: int = CONTRACT_VERSION

    def to_json(self) -> str:
        """Returns the text of `contract.json`."""
        # The manifest holds the hash of these bytes: any other layout would be another file.
        # Prompts may be in any script, and escaped nobody could read them.
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "contract.json") -> Contract:
        """Reads the text that `to_json` returned.

        Args:
            text: the file's content.
            source: the file's name, for messages.

        Raises:
            BundleError: not JSON, an unknown version, or a missing, extra or mistyped field.
        """
        try:
            raw = json.loads(text)
        # ValueError is also raised for a number of thousands of digits, RecursionError for
        # thousands of nested brackets.
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{source}: not JSON ({error}); export the bundle again") from None
        # Before the fields: another version has other fields, and its remedy is another one.
        version = raw.get("contract_version") if isinstance(raw, dict) else None
        if version != CONTRACT_VERSION:
            older = isinstance(version, int) and version < CONTRACT_VERSION
            raise BundleError(
                f"{source}: contract_version {version!r} is not known here "
                f"(known: {CONTRACT_VERSION}); "
                + ("export it again" if older else "upgrade lame-runtime")
            )
        return from_json_object(Contract, raw, source)

    @staticmethod
    def load(path: Path) -> Contract:
        """Reads the file `contract.json` at `path`.

        Raises:
            BundleError: the file cannot be read, or is not a contract of this version.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(
                f"{path}: cannot be read ({error}); is this a LaME bundle or checkpoint?"
            ) from None
        return Contract.from_json(text, str(path))
