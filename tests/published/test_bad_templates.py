"""Chat templates that no layout describes: one line names each fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folder_edits import (
    SEQUENCE,
    TEMPLATE,
    Edit,
    blocked,
    both,
    fields,
    gone,
    processed,
    refused_case,
    replaced,
    special,
    template,
    text,
)

TEXT_OF = "{{- c['text'] }}"
FAULTS: dict[str, tuple[Edit, str]] = {
    "no template": (gone(TEMPLATE), "has no chat template, which .* needs; copy"),
    "no system role": (
        replaced("{%- for m in messages %}", "{%- for m in messages if m['role'] == 'user' %}"),
        "does not print a system message once before",
    ),
    "raises": (template("{{ raise_exception('no\ngood') }}"), r"cannot be rendered \(no good\)"),
    "syntax": (template("{% for %}"), "its chat template cannot be rendered"),
    "uses task": (replaced("{%- if add", "{{ task }}{%- if add"), "differently .*task"),
    "endless": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        "cannot be rendered .*tim",
    ),
    "huge": (template("{{ 'x' * 99999999 }}"), "cannot be rendered"),
    "numbers pictures": (
        template(
            "{%- set ns = namespace(n=0) %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
            "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}"
            "{% set ns.n = ns.n + 1 %}Picture {{ ns.n }}: <|{{ c['type'] }}_pad|>{% endif %}"
            "{% endfor %}<|im_end|>\n{% endfor %}"
        ),
        "does not place <|image_pad|> at the position",
    ),
    "no token after the text": (
        both(
            replaced("{{- '<|im_end|>\\n' }}", "{{- '\\n' }}"),
        ),
        "must begin with a special token",
    ),
    "trims texts": (replaced(TEXT_OF, "{{- c['text'] | trim }}"), "changes texts or moves parts"),
    "escapes texts": (replaced(TEXT_OF, "{{- c['text'] | e }}"), "changes texts or moves parts"),
    "third picture": (
        replaced("{%- for c in m['content'] %}", "{%- for c in m['content'][:4] %}"),
        "changes texts or moves parts of image, image, video, text, image;",
    ),
    "pictures after a system message": (
        replaced("_pad|>", "_pad|>' + ('' if messages|length == 1 else '!') + '"),
        "changes texts or moves parts of image with a prompt",
    ),
    "date": (
        replaced("{%- if add", "{{- strftime_now('%Y') if no else '' }}{%- if add"),
        "prints the date",
    ),
    "token without a name": (
        replaced("{%- if add", "{{- bos_token }}{%- if add"),
        "uses bos_token, which tokenizer_config.json does not set",
    ),
    "token of some prompts": (
        both(
            processed([SEQUENCE, special("<|endoftext|>")]),
            fields("tokenizer_config.json", bos_token="<|vision_pad|>"),
            replaced(
                "{%- for m in", "{%- if messages|length > 1 %}<|vision_pad|>{% endif %}{%- for m in"
            ),
        ),
        "at the beginning of some prompts only",
    ),
    "template is a pipe": (blocked(TEMPLATE, os.mkfifo), "is a pipe"),
    "template is a folder": (blocked(TEMPLATE, os.mkdir), "is a folder"),
    "template is Latin-1": (
        both(gone(TEMPLATE), lambda folder: (folder / TEMPLATE).write_bytes(b"\xe9")),
        "cannot be read .*utf-8",
    ),
    "named templates": (
        both(gone(TEMPLATE), fields("tokenizer_config.json", chat_template=[{"name": "x"}])),
        "has chat templates, but none called default",
    ),
    "picture rules": (
        both(gone("processor_config.json"), text("preprocessor_config.json", {"size": 5})),
        "its processor files cannot be used",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_in_one_line(name: str, good_folder: Path, tmp_path: Path) -> None:
    """Faults of the chat template."""
    refused_case(FAULTS[name], good_folder, tmp_path)
