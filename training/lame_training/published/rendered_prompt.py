"""Derives the prompt of a published embedder: what its chat template and its tokenizer print."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.fields.prompt_layout import SPECIAL_TOKEN
from lame_runtime.errors import BundleError, first_line, shown
from tokenizers import Tokenizer

from lame_training.contract_from.chat_template import layout_from_template, read_template
from lame_training.model.from_disk.tensors import read_object

TASKS = ("query", "document")
"""Values of the variable `task` that Sentence Transformers renders templates with."""


def published_prompt(
    folder: Path,
    family: str,
    roles: dict[str, str],
    default_role: str | None,
    variables: Mapping[str, Any],
) -> PromptLayout:
    """Returns the layout of the prompt.

    Args:
        folder: the folder of the backbone's tokenizer and chat template.
        family: the backbone's family.
        roles: the instruction of each role.
        default_role: the role of inputs that are embedded without one.
        variables: what the chat template is rendered with, besides the messages.

    Raises:
        BundleError: the folder has no chat template, or one that the contract cannot express.
    """
    template = read_template(folder, family)
    if isinstance(template, PromptLayout):
        raise BundleError(f"{folder}: has no chat template, which Sentence Transformers needs")
    layout = layout_from_template(template, roles, folder, variables=variables, system=True)
    for task in TASKS:
        with_task = {**variables, "task": task}
        other = layout_from_template(template, roles, folder, variables=with_task, system=True)
        if other != layout:
            raise BundleError(
                f"{folder}: its chat template prints queries and documents differently (`task`), "
                "which is not supported"
            )
    before, after = _added_tokens(folder)
    system_open = before + layout.system_open
    return dataclasses.replace(
        layout,
        prefix=before + layout.prefix,
        suffix=layout.suffix + after,
        system_open=system_open,
        default_role=default_role,
        as_given=True,
    )


def _added_tokens(folder: Path) -> tuple[str, str]:
    """Returns the tokens that the tokenizer itself adds before and after every text."""
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    for name in ("add_bos_token", "add_eos_token"):
        if settings.get(name):
            raise BundleError(
                f"{path}: sets {name}; let the post-processor of tokenizer.json add the token"
            )
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        encoded = tokenizer.encode("a").tokens
        plain = tokenizer.encode("a", add_special_tokens=False).tokens
    except Exception as error:  # the library raises bare exceptions
        raise BundleError(
            f"{path}: cannot be read ({shown(first_line(error))}); copy it again"
        ) from None
    start = next(place for place in range(len(encoded)) if encoded[place:][: len(plain)] == plain)
    before, after = encoded[:start], encoded[start + len(plain) :]
    for token in (*before, *after):
        if not SPECIAL_TOKEN.fullmatch(token):
            raise BundleError(
                f"{path}: its post-processor adds {shown(repr(token))}; supported are tokens such "
                "as <|endoftext|>"
            )
    return "".join(before), "".join(after)
