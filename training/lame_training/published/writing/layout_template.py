"""Writes the chat template that prints prompts as a contract's layout does."""

from __future__ import annotations

import json

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER

_TEMPLATE = """\
{%- set ns = namespace(instruction='', texts=0) -%}
{%- for message in messages -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- if message['role'] == 'system' -%}
{%- set ns.instruction = part['text'] | replace(mark, '') | trim -%}
{%- else -%}{%- set ns.texts = ns.texts + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{{- prefix -}}
{%- for message in messages if message['role'] != 'system' -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- picture -}}
{%- elif part['type'] == 'video' -%}{{- video -}}
{%- endif -%}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set text = part['text'] | replace(mark, '') -%}
{%- if ns.texts == 1 -%}{%- set text = text | trim -%}{%- endif -%}
{%- if text | trim -%}
{%- if ns.instruction -%}{{- ns.instruction + separator -}}{%- set ns.instruction = '' -%}
{%- endif -%}
{{- text -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{{- ns.instruction -}}
{{- suffix -}}
"""


def layout_template(layout: PromptLayout, latents: list[str]) -> str:
    """Returns a Jinja template for conversations as Sentence Transformers writes them.

    A system message is the instruction, and stands where the layout puts it. Pictures and videos
    precede the texts of their message.

    Args:
        layout: how prompts are laid out.
        latents: the tokens that follow the prompt.
    """
    values = {
        "mark": IMAGE_PLACEHOLDER,
        "prefix": layout.prefix,
        "picture": f"{layout.image_open}<|image_pad|>{layout.image_close}",
        "video": f"{layout.video_open}<|video_pad|>{layout.video_close}",
        "separator": layout.separator,
        "suffix": layout.suffix + "".join(latents),
    }
    # JSON's strings are string literals of Jinja
    names = [
        f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}\n"
        for name, value in values.items()
    ]
    return "".join(names) + _TEMPLATE
