"""A chat template → the literal texts around an input's parts.

The template is rendered once, sandboxed, with marks in place of the parts; what stands around the marks is the
prompt's layout. The input is the user's turn, and the latent rows stand where the assistant would begin to answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.prompts import check_layout
from lame_runtime.errors import InputError

from lame_training.backbones import first_line, read_json

MARK, OTHER = "LAME0TEXT", "LAME1TEXT"
VISION = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
_TURNS = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PUBLISHED = {
    "qwen2_vl": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", _TURNS),
    "qwen2_5_vl": ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", _TURNS),
    "qwen3_vl": ("", _TURNS),
}
"""What each family's published template renders: the system turn, and the user's turn with the opening of the answer."""


def read_template(folder: Path, family: str) -> str | PromptLayout:
    """The folder's chat template, or the layout that the family's published one gives."""
    if (path := folder / "chat_template.jinja").is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); copy the folder again") from None
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = read_json(folder / name).get("chat_template")
        if isinstance(found, list):  # named templates
            named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
            if not isinstance(found := named.get("default"), str):
                raise InputError(f"{folder / name}: has chat templates, but none called default; name one so")
        if isinstance(found, str):
            return found
    before, turns = PUBLISHED[family]
    prefix, suffix = (before + turns).split("{}")
    return PromptLayout(prefix, suffix, "\n", {})


def layout_from_template(template: str | PromptLayout, roles: dict[str, str], folder: Path) -> PromptLayout:
    """The prompt's layout.

    Args:
        template: Jinja source, or a layout that is taken as it is.
        roles: default instructions.
        folder: for messages.

    Raises:
        InputError: the template cannot be rendered, or does not place texts, pictures and videos as plain parts.
    """
    if isinstance(template, PromptLayout):
        return PromptLayout(template.prefix, template.suffix, template.separator, roles)
    plain = _render(template, [MARK], folder)
    if plain.count(MARK) != 1:
        raise InputError(f"{folder}: its chat template does not print a user's text once; give one for pictures, videos and texts")
    prefix, suffix = plain.split(MARK)
    around = {}
    for kind, pad in VISION.items():
        shown = _render(template, [{"type": kind}, MARK, {"type": kind}, OTHER], folder)
        inner = shown.removeprefix(prefix).removesuffix(suffix)
        first, mark, second = inner.removesuffix(OTHER).partition(MARK)
        if first.count(pad) != 1 or not mark or first != second:
            raise InputError(
                f"{folder}: its chat template does not place {pad} where a user's {kind} stands; give one for pictures and videos"
            )
        around[kind] = first.split(pad)
    layout = PromptLayout(prefix, suffix, "\n", roles, *around["image"], *around["video"])
    try:
        check_layout(layout)
    except ValueError as error:
        raise InputError(f"{folder}: its chat template does not suit: {error}") from None
    return layout


def _render(template: str, parts: list[Any], folder: Path) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    try:
        rendered, _ = render_jinja_template([[{"role": "user", "content": content}]], chat_template=template, add_generation_prompt=True)
    except Exception as error:  # Jinja and the template itself raise what they like
        raise InputError(f"{folder}: its chat template cannot be rendered ({first_line(error)})") from None
    return str(rendered[0])
