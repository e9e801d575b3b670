"""Writes the chat template that prints prompts as a contract's layout does."""

from __future__ import annotations

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.prompts import IMAGE_PLACEHOLDER

_TEMPLATE = """\
{%- set ns = namespace(instruction='', texts=0) -%}
{%- for message in messages -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- if message['role'] == 'system' -%}
{%- set ns.instruction = part['text'] | replace(MARK, '') | trim -%}
{%- else -%}{%- set ns.texts = ns.texts + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{{- PREFIX -}}
{%- for message in messages if message['role'] != 'system' -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{{- IMAGE -}}
{%- elif part['type'] == 'video' -%}{{- VIDEO -}}
{%- endif -%}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set text = part['text'] | replace(MARK, '') -%}
{%- if ns.texts == 1 -%}{%- set text = text | trim -%}{%- endif -%}
{%- if text | trim -%}
{%- if ns.instruction -%}{{- ns.instruction + SEPARATOR -}}{%- set ns.instruction = '' -%}
{%- endif -%}
{{- text -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{{- ns.instruction -}}
{{- SUFFIX -}}
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
        "MARK": IMAGE_PLACEHOLDER,
        "PREFIX": layout.prefix,
        "IMAGE": f"{layout.image_open}<|image_pad|>{layout.image_close}",
        "VIDEO": f"{layout.video_open}<|video_pad|>{layout.video_close}",
        "SEPARATOR": layout.separator,
        "SUFFIX": layout.suffix + "".join(latents),
    }
    template = _TEMPLATE
    for name, value in values.items():
        template = template.replace(name, _quoted(value))
    return template


def _quoted(text: str) -> str:
    """Returns a string literal of Jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
