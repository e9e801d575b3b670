"""The dataclasses behind `contract.json`: numbers and strings, no behaviour but reading and writing."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from lame_runtime.errors import BundleError

CONTRACT_VERSION = 2


@dataclass(frozen=True)
class PromptLayout:
    """How an input becomes one string. `<|…|>` tokens inside these strings are special tokens.

    The order is `prefix`, the input's parts in their own order, `suffix`. The instruction stands before the
    first text, joined to it by `separator`, or behind the last part where there is no text.
    """

    prefix: str
    suffix: str
    separator: str
    roles: dict[str, str]
    """Instruction used for a role ("query", "document") when the input brings none of its own."""
    image_open: str = "<|vision_start|>"
    """Stands before a picture's vision tokens."""
    image_close: str = "<|vision_end|>"
    video_open: str = "<|vision_start|>"
    video_close: str = "<|vision_end|>"


@dataclass(frozen=True)
class TokenRules:
    """Ids of the tokens the contract places itself, and how many latent rows follow the prompt."""

    image_pad: int
    video_pad: int
    pad: int
    first_latent: int
    """Id of [REASON]_0; [REASON]_i is `first_latent + i` and [EMBED] is `first_latent + n_reason`."""
    n_reason: int
    max_length: int
    """Longest prompt in tokens, pictures included, latent rows excluded."""


@dataclass(frozen=True)
class ImageRules:
    """How a picture becomes patches: sizes in pixels, `mean` and `std` per RGB channel on the 0..1 scale."""

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_source_pixels: int = 89_478_485
    """A picture with more pixels than this is refused before it is decoded (decompression bombs)."""

    @property
    def patch_dim(self) -> int:
        """Length of one flattened patch: channels × temporal × height × width."""
        return 3 * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class VideoRules:
    """How a video becomes frames and frames become patches; the patch geometry is that of pictures."""

    fps: float
    """Frames sampled per second of video."""
    min_frames: int
    max_frames: int
    sampling: Literal["stride", "linspace"]
    """Equal steps from the first frame (Qwen2-VL, Qwen2.5-VL), or evenly from the first to the last (Qwen3-VL)."""
    min_pixels: int
    max_pixels: int
    pixels_of: Literal["frame", "clip"]
    """What the two pixel limits count: one frame (Qwen2-VL, Qwen2.5-VL) or frames × height × width (Qwen3-VL)."""
    cap_pixels_per_frame: bool
    max_video_tokens: int
    """With `cap_pixels_per_frame`: of a frame budget, 0.9 × the tokens of a whole video; of a clip budget, the tokens of one frame."""
    tokens_per_second: float
    """M-RoPE's temporal positions per second (Qwen2.5-VL); 0 counts temporal patches one by one."""
    timestamps: bool
    """Each temporal patch is announced by its time as text and stands between vision tokens of its own (Qwen3-VL)."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class TowerRules:
    """What the vision tower needs computed on the host, beyond rows and columns; 0 where it does not."""

    window: int = 0
    """Side of an attention window in patches (Qwen2.5-VL)."""
    position_side: int = 0
    """Side of the learned grid of position embeddings that is interpolated (Qwen3-VL)."""


@dataclass(frozen=True)
class Limits:
    """What one input may hold, so that no request exhausts the memory."""

    visuals: int
    """Pictures and videos."""
    patches: int
    """Patches of all of them together, before merging."""


@dataclass(frozen=True)
class Contract:
    """What training and deployment agree on; see the package's docstring for what each part governs."""

    family: str
    dim: int
    """Length P of the vectors."""
    prompt: PromptLayout
    tokens: TokenRules
    images: ImageRules
    videos: VideoRules
    tower: TowerRules
    limits: Limits
    contract_version: int = CONTRACT_VERSION

    def to_json(self) -> str:
        """The text of `contract.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, source: str = "contract.json") -> Contract:
        """Reads what `to_json` wrote.

        Raises:
            BundleError: not JSON, an unknown version, or a missing, extra or mistyped field.
        """
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{source}: not JSON ({error}); export the bundle again") from None
        version = raw.get("contract_version") if isinstance(raw, dict) else None
        if version != CONTRACT_VERSION:
            remedy = "export it again" if isinstance(version, int) and version < CONTRACT_VERSION else "upgrade lame-runtime"
            raise BundleError(f"{source}: contract_version {version!r} is not known here (known: {CONTRACT_VERSION}); {remedy}")
        contract = _build(Contract, raw, source)
        assert isinstance(contract, Contract)
        return contract

    @staticmethod
    def load(path: Path) -> Contract:
        """Reads `contract.json` at `path`; raises `BundleError` where that cannot be done."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: cannot be read ({error}); is this a LaME bundle or checkpoint?") from None
        return Contract.from_json(text, str(path))


def _build(kind: type, raw: Any, where: str) -> Any:
    """Builds the (possibly nested) frozen dataclass `kind` from parsed JSON, strictly by its type hints."""
    fields = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(raw, dict) or set(raw) != fields:
        found = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise BundleError(f"{where}: {kind.__name__} needs exactly {sorted(fields)}, found {found}; export the bundle again")
    hints = get_type_hints(kind)
    values = {}
    for name, value in raw.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(hint, value, f"{where}: {name}")  # type: ignore[arg-type]
            continue
        if hint == tuple[float, float, float]:
            ok = isinstance(value, list) and len(value) == 3 and all(isinstance(v, float | int) for v in value)
            value = tuple(float(v) for v in value) if ok else value
        elif hint == dict[str, str]:
            ok = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        elif get_origin(hint) is Literal:
            ok = value in get_args(hint)
        elif hint is float:
            ok = type(value) in (int, float)
            value = float(value) if ok else value
        else:
            ok = type(value) is hint
        if not ok:
            raise BundleError(f"{where}: {name} must be {hint}, found {value!r}; export the bundle again")
        values[name] = value
    return kind(**values)
