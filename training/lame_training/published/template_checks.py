"""Checks that a chat template prints what the layout says, for more inputs than it was read from.

A layout is the text around a few marks. A template may still do something else with a text that is
not a plain word, with the third picture, or with pictures after a system message: trim the text,
escape it, number the pictures. Such a prompt is none that a layout describes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.errors import BundleError, shown

from lame_training.contract_from import render_template
from lame_training.contract_from.chat_template import VISION_TOKENS
from lame_training.model.from_disk.limited_process import run_limited
from lame_training.model.from_disk.tensors import read_object

TEXTS = (
    "Plain",
    " \n two  spaces\tand a tab \n ",
    "<b>&amp; 'q' \"d\" {{ x }} {% y %}",
    "Straße É 红",
)
"""Texts that a template could change: white space, markup, signs of Jinja, other scripts."""
_TOKEN_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
Parts = list[tuple[str, str]]
"""Kinds and texts of an input's parts."""


def token_variables(template: str, folder: Path) -> dict[str, str]:
    """Returns the special tokens that a template prints by the names of their variables.

    Raises:
        BundleError: the folder does not say which token a variable stands for.
    """
    settings = {
        **read_object(folder / "special_tokens_map.json"),
        **read_object(folder / "tokenizer_config.json"),
    }
    tokens = {}
    for kind in _TOKEN_NAMES:
        name = f"{kind}_token"
        value = settings.get(name)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str):
            tokens[name] = token
        elif re.search(rf"\b{name}\b", template):
            raise BundleError(
                f"{folder}: its chat template uses {name}, which tokenizer_config.json does not "
                "set; write the token into the template"
            )
    return tokens


def check_rendering(
    template: str, layout: PromptLayout, variables: Mapping[str, Any], folder: Path
) -> None:
    """Compares what a chat template prints with what its layout says.

    Args:
        template: Jinja source.
        layout: what was read from it, without what the tokenizer adds.
        variables: what it is rendered with, besides the messages.
        folder: begins the messages of errors.

    Raises:
        BundleError: they differ, or the text depends on the date.
    """
    if "strftime_now" in template:
        raise BundleError(
            f"{folder}: its chat template prints the date, so that vectors would change from day "
            "to day; write a fixed text in its place"
        )
    inputs: list[Parts] = [[("text", text)] for text in TEXTS]
    for kind, other in (("image", "video"), ("video", "image")):
        inputs += [
            [(kind, "")],
            [("text", TEXTS[1]), (kind, "")],
            [(kind, ""), (kind, ""), (other, ""), ("text", TEXTS[2]), (kind, "")],
        ]
    cases = [(parts, instruction) for parts in inputs for instruction in ("", *TEXTS[1:3])]
    question = {
        "template": template,
        "conversations": [_messages(parts, instruction) for parts, instruction in cases],
        "variables": dict(variables),
    }
    try:
        rendered = run_limited(Path(render_template.__file__), question)
    except ValueError as error:
        raise BundleError(
            f"{folder}: its chat template cannot be rendered ({shown(error)})"
        ) from None
    for text, (parts, instruction) in zip(rendered, cases, strict=True):
        if text != _expected(layout, parts, instruction):
            kinds = ", ".join(kind for kind, _ in parts)
            prompt = " with a prompt" if instruction else ""
            raise BundleError(
                f"{folder}: its chat template changes texts or moves parts of {kinds}{prompt}; "
                "use one that prints every part as it is, in its place"
            )


def _messages(parts: Parts, instruction: str) -> list[dict[str, Any]]:
    """Returns a conversation as Sentence Transformers writes it."""
    content = [{"type": kind, kind: text or f"{kind}.bin"} for kind, text in parts]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if instruction:
        system = [{"type": "text", "text": instruction}]
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _expected(layout: PromptLayout, parts: Parts, instruction: str) -> str:
    """Returns the prompt that a layout gives."""
    start = layout.prefix
    if instruction:
        start = layout.system_open + instruction + layout.system_close
    around = {
        "image": layout.image_open + VISION_TOKENS["image"] + layout.image_close,
        "video": layout.video_open + VISION_TOKENS["video"] + layout.video_close,
    }
    return start + "".join(around.get(kind, text) for kind, text in parts) + layout.suffix
