"""Derives the layout of a prompt, the literal texts around an input's parts, from a chat template.

The template is rendered in a sandbox, in a process of its own with limits on time and memory.
Marks stand in place of the parts; the text around the marks is the layout. The input is the user's
turn, and the latent tokens stand where the assistant's answer would begin.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.prompts import check_layout
from lame_runtime.errors import BundleError, shown
from lame_runtime.files.regular import read_regular

from lame_training.contract_from import render_template
from lame_training.model.from_disk.limited_process import run_limited
from lame_training.model.from_disk.tensors import inside, read_object, reason

MAX_TEMPLATE = 1 << 20
"""Longest chat template in bytes; published ones take 4 kB."""

# Plain words, so that no template escapes or changes them.
FIRST_MARK, SECOND_MARK = "LAME0TEXT", "LAME1TEXT"
VISION_TOKENS = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
SEPARATOR = "\n"
"""Text between an instruction and the text after it (ours; templates know no instruction)."""
OPENED_ANSWER = {"add_generation_prompt": True}
"""Variables of a template that make it print the beginning of an answer at the end."""
_TURNS = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PUBLISHED = {
    "qwen2_vl": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", _TURNS),
    "qwen2_5_vl": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", _TURNS),
    "qwen3_vl": ("", _TURNS),
    "qwen3_vl_moe": ("", _TURNS),
}
"""The rendering of each family's published template: the system turn, then the user's turn with the
opening of the answer. `{}` stands for the input."""


def read_template(folder: Path, family: str) -> str | PromptLayout:
    """Returns the folder's chat template, or the layout of the family's published one.

    Raises:
        BundleError: a file cannot be read, or holds named templates without a default, or
            something that is no template.
    """
    # newest format first: transformers writes the template to a file of its own
    path = folder / "chat_template.jinja"
    try:
        return read_regular(inside(path), MAX_TEMPLATE).decode("utf-8")
    except FileNotFoundError:
        pass  # then the template is in one of the JSON files
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path}: cannot be read ({reason(error)}); copy the folder again"
        ) from None
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = read_object(folder / name).get("chat_template")
        if isinstance(template, list):
            # a list of {"name", "template"}, one for tool use, for example
            named = {
                entry.get("name"): entry.get("template")
                for entry in template
                if isinstance(entry, dict)
            }
            template = named.get("default")
            if not isinstance(template, str):
                raise BundleError(
                    f"{folder / name}: has chat templates, but none called default; "
                    "give this name to one of them"
                )
        if isinstance(template, str):
            return template
        if template is not None:
            raise BundleError(
                f"{folder / name}: chat_template is {shown(repr(template))}; "
                "expected a text or a list of named ones: copy the folder again"
            )
    system, turns = PUBLISHED[family]
    prefix, suffix = (system + turns).split("{}")
    return PromptLayout(prefix, suffix, SEPARATOR, {})


def layout_from_template(
    template: str | PromptLayout,
    roles: dict[str, str],
    folder: Path,
    *,
    variables: Mapping[str, Any] = OPENED_ANSWER,
    system: bool = False,
) -> PromptLayout:
    """Returns the layout of the prompt.

    Args:
        template: Jinja source, or a layout, which only gets the roles.
        roles: default instructions by role.
        folder: begins the messages of errors.
        variables: what the template is rendered with, besides the messages.
        system: whether an instruction is a system message; the layout then has what stands around.

    Raises:
        BundleError: the template cannot be rendered, or does not print texts, pictures and videos
            as plain parts.
    """
    if isinstance(template, PromptLayout):
        return dataclasses.replace(template, roles=roles)
    # two pictures with a text between them show if a template numbers pictures, moves them to the
    # front, or puts something between parts: the texts around both must be the same
    contents = [
        [{"type": kind}, _text(FIRST_MARK), {"type": kind}, _text(SECOND_MARK)]
        for kind in VISION_TOKENS
    ]
    turns = [[_turn("user", content)] for content in ([_text(FIRST_MARK)], *contents)]
    plain, *mixed = _render(template, turns, variables, folder)
    if plain.count(FIRST_MARK) != 1:
        raise BundleError(
            f"{folder}: its chat template does not print a user's text exactly once; "
            "use one for pictures, videos and texts"
        )
    prefix, suffix = plain.split(FIRST_MARK)
    around: dict[str, Any] = {}
    for (kind, vision_token), rendered in zip(VISION_TOKENS.items(), mixed, strict=True):
        inner = rendered.removeprefix(prefix).removesuffix(suffix)
        first, mark, second = inner.removesuffix(SECOND_MARK).partition(FIRST_MARK)
        if first.count(vision_token) != 1 or not mark or first != second:
            raise BundleError(
                f"{folder}: its chat template does not place {vision_token} at the position of a "
                f"user's {kind}; use one for pictures and videos"
            )
        # opening and closing, such as <|vision_start|> and <|vision_end|>
        around[f"{kind}_open"], around[f"{kind}_close"] = first.split(vision_token)
    if system:
        around |= _around_system_message(template, suffix, variables, folder)
    layout = dataclasses.replace(PromptLayout(prefix, suffix, SEPARATOR, roles), **around)
    try:
        check_layout(layout)
    except ValueError as error:
        raise BundleError(f"{folder}: its chat template cannot be used: {shown(error)}") from None
    return layout


def _around_system_message(
    template: str, suffix: str, variables: Mapping[str, Any], folder: Path
) -> dict[str, str]:
    """Returns what a template prints before a system message, and between it and a user's text."""
    messages = [_turn("system", [_text(FIRST_MARK)]), _turn("user", [_text(SECOND_MARK)])]
    (rendered,) = _render(template, [messages], variables, folder)
    opening, mark, rest = rendered.partition(FIRST_MARK)
    closing, _, tail = rest.partition(SECOND_MARK)
    if not mark or tail != suffix or not opening or FIRST_MARK in rest:
        raise BundleError(
            f"{folder}: its chat template does not print a system message once before the user's "
            "text; its prompts cannot be used"
        )
    return {"system_open": opening, "system_close": closing}


def _turn(role: str, content: list[dict[str, str]]) -> dict[str, Any]:
    """Returns a chat message."""
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, str]:
    """Returns a text as a part of a chat message."""
    return {"type": "text", "text": text}


def _render(
    template: str,
    conversations: list[list[dict[str, Any]]],
    variables: Mapping[str, Any],
    folder: Path,
) -> list[str]:
    """Renders conversations; raises `BundleError`.

    Args:
        template: Jinja source.
        conversations: for each text to render, chat messages as transformers has them.
        variables: what the template is rendered with, besides the messages.
        folder: begins the message of the error.
    """
    question = {
        "template": template,
        "conversations": conversations,
        "variables": dict(variables),
    }
    try:
        texts: list[str] = run_limited(Path(render_template.__file__), question)
    except ValueError as error:
        raise BundleError(
            f"{folder}: its chat template cannot be rendered ({shown(error)})"
        ) from None
    return texts
