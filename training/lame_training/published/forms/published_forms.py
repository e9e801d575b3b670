"""The forms of published embedders that a folder does not describe: prompt, pooling, limits.

Such a folder holds weights and a tokenizer; how inputs become prompts stands in a script beside
them, which is never run. A form is what that script does, with its source. All of them pool the
state of the prompt's last token. After it, nothing matters to a causal model, so a prompt ends
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.errors import UsageError, shown

_SYSTEM, _USER = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n"
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n"
_END = "<|endoftext|>"


@dataclass(frozen=True)
class PublishedForm:
    """How the inputs of one kind of embedder become vectors.

    Attributes:
        families: the backbones that it was published on.
        prompt: the layout of its prompts.
        source: the file or page that it was read from.
        date: the day on which the source was read.
        added: tokens that the model's own tokenizer must add after a text.
        sequential: whether positions are counted one by one, also in pictures.
        max_length: longest prompt in tokens; None takes the folder's.
        min_pixels: smallest area of a picture after resizing.
        max_pixels: largest area of a picture after resizing.
        videos: fields of the video rules that differ from the folder's.
        special_tokens: tokens of the prompt that the tokenizer must not find in texts.
    """

    families: tuple[str, ...]
    prompt: PromptLayout
    source: str
    date: str
    min_pixels: int
    max_pixels: int
    added: str = ""
    sequential: bool = False
    max_length: int | None = None
    videos: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: tuple[str, ...] = ()


def _system_turn(default: str, suffix: str, **layout: Any) -> PromptLayout:
    """Returns a layout whose instruction is the system message, for both roles `default`."""
    return PromptLayout(
        prefix=f"{_SYSTEM}{default}{_USER}",
        suffix=suffix,
        separator="\n",
        roles={"query": default, "document": default},
        system_open=_SYSTEM,
        system_close=_USER,
        default_role="document",
        as_given=True,
        **layout,
    )


_GME = PublishedForm(
    families=("qwen2_vl",),
    prompt=_system_turn(
        "You are a helpful assistant.", f"{_ANSWER}{_END}", dict_order="image_video_text"
    ),
    source="GmeQwen2VL: TIGER-AI-Lab/VLM2Vec at 6ac33bb, src/model/vlm_backbone/gme",
    date="2026-11-28",
    min_pixels=256 * 28**2,
    max_pixels=1_280 * 28**2,
    max_length=1_800,
)
FORMS: dict[str, PublishedForm] = {
    "qwen3-vl-embedding": PublishedForm(
        families=("qwen3_vl",),
        prompt=_system_turn(
            "Represent the user's input.",
            f"{_ANSWER}{_END}",
            dict_order="video_image_text",
            punctuate=True,
        ),
        source="Qwen3VLEmbedder: QwenLM/Qwen3-VL-Embedding at 7f13038, README, and at 8ce3aab, "
        "src/models/qwen3_vl_embedding.py",
        date="2026-11-28",
        # the chat template ends with the opened answer; the tokenizer adds the pooled token
        added=_END,
        min_pixels=4 * 32**2,
        max_pixels=1_800 * 32**2,
        max_length=8_192,
        videos={
            "fps": 1.0,
            "max_frames": 64,
            "max_pixels": 20 * 768 * 32**2,
            "cap_pixels_per_frame": True,
            "max_video_tokens": 768,
        },
    ),
    "gme-mrope": _GME,
    "gme-sequential": replace(_GME, sequential=True),
    "vlm2vec-v2": PublishedForm(
        families=("qwen2_vl",),
        prompt=PromptLayout(
            prefix="",
            suffix="",
            separator=" ",
            roles={"query": "", "document": ""},
            image_open="",
            image_close=" ",
            video_open="",
            video_close=" ",
            as_given=True,
            dict_order="image_video_text",
        ),
        source="TIGER-AI-Lab/VLM2Vec at ad6d9a4, experiments/examples/qwen2vl/demo_v2_image.py, "
        "and at 6ac33bb, src/model/processor.py",
        date="2026-11-28",
        # without <|vision_start|>, its `get_rope_index` finds no picture
        sequential=True,
        min_pixels=4 * 28**2,
        max_pixels=1_280 * 28**2,
    ),
    "ume-r1": PublishedForm(
        families=("qwen2_vl",),
        prompt=PromptLayout(
            prefix=f"{_SYSTEM}You are a helpful assistant.{_USER}",
            suffix="<disc_emb>",
            separator="\n",
            roles={"query": "", "document": ""},
            as_given=True,
            dict_order="image_video_text",
            text_close="\n",
        ),
        source="XMUDeepLIT/UME-R1 at 55e5512, README and src/eval/VLM2Vec/eval_twomode.py",
        date="2026-11-28",
        min_pixels=768,
        max_pixels=2_359_296,
        max_length=12_288,
        special_tokens=("<disc_emb>",),
    ),
}
"""Forms by name."""
_AMBIGUOUS = {
    "gme": "GME's own script counts positions one by one also in pictures, and transformers' model "
    "by M-RoPE, so that their vectors differ; use gme-sequential to equal the script, or gme-mrope"
}
"""Names that leave open what no folder and no page says."""


def published_form(name: object) -> PublishedForm:
    """Returns the form of a name.

    Raises:
        UsageError: there is none, or the name leaves open how vectors are made.
    """
    if isinstance(name, str) and name in FORMS:
        return FORMS[name]
    if name == "lame-2b":
        raise UsageError(
            "only `lame-train import` reads the `form` lame-2b; import the folder, and use the "
            "checkpoint"
        )
    if isinstance(name, str) and name in _AMBIGUOUS:
        raise UsageError(f"the `form` {name} is ambiguous: {_AMBIGUOUS[name]}")
    raise UsageError(f"unknown `form` {shown(repr(name))}: use one of {', '.join(FORMS)}")
