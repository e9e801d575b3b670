"""Derives the prompt of a published embedder: what its chat template and its tokenizer print."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lame_runtime.contract import PromptLayout
from lame_runtime.contract.fields.prompt_layout import SPECIAL_TOKEN
from lame_runtime.errors import BundleError, first_line, shown
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from lame_runtime.files.tokenizer_json import read_tokenizer
from tokenizers import Tokenizer

from lame_training.contract_from.chat_template import layout_from_template, read_template
from lame_training.model.from_disk.tensors import inside, read_object, reason
from lame_training.published.template_checks import check_rendering, token_variables
from lame_training.published.transformer_options import check_variables

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
        raise BundleError(
            f"{folder}: has no chat template, which Sentence Transformers needs; copy it there as "
            "chat_template.jinja"
        )
    check_variables(dict(variables), template, folder)
    variables = {**token_variables(template, folder), **variables}
    layout = layout_from_template(template, roles, folder, variables=variables, system=True)
    # each rendering starts a process, and few templates know the variable
    for task in TASKS if "task" in template else ():
        with_task = {**variables, "task": task}
        other = layout_from_template(template, roles, folder, variables=with_task, system=True)
        if other != layout:
            raise BundleError(
                f"{folder}: its chat template prints queries and documents differently (`task`), "
                "which is not supported"
            )
    check_rendering(template, layout, variables, folder)
    _check_special_tokens(folder, layout)
    before, after = added_tokens(folder)
    # transformers adds no tokens if a prompt begins with the token that begins texts
    first = variables.get("bos_token")
    if (before or after) and isinstance(first, str):
        begins = {start.startswith(first) for start in (layout.prefix, layout.system_open)}
        if len(begins) > 1:
            raise BundleError(
                f"{folder}: its chat template prints {shown(first)} at the beginning of some "
                "prompts only; let it do so for all, or for none"
            )
        if begins == {True}:
            before = after = ""
    return dataclasses.replace(
        layout,
        prefix=before + layout.prefix,
        suffix=layout.suffix + after,
        system_open=before + layout.system_open,
        default_role=default_role,
        as_given=True,
    )


def _check_special_tokens(folder: Path, layout: PromptLayout) -> None:
    """Raises `BundleError` if the contract would read a special token otherwise than transformers.

    The contract knows special tokens of the form <|…|> in the template's own texts, and none in
    instructions, whereas transformers finds every one of the tokenizer's anywhere in the prompt.
    """
    literals = layout.literals().values()
    # a file that is no tokenizer is refused by `added_tokens`
    entries = read_object(folder / "tokenizer.json").get("added_tokens")
    for entry in entries if isinstance(entries, list) else []:
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str) or not token or entry.get("special") is not True:
            continue
        for role, instruction in layout.roles.items():
            if token in instruction:
                raise BundleError(
                    f"{folder}: the prompt {shown(repr(role))} holds the special token "
                    f"{shown(token)}, which is not supported; use a model without it"
                )
        if not any(token in literal for literal in literals):
            continue
        if not SPECIAL_TOKEN.fullmatch(token):
            raise BundleError(
                f"{folder}: its chat template prints the special token {shown(token)}; supported "
                "are tokens such as <|im_end|>"
            )
        # they take white space of the texts beside the token, or need it there
        for name in ("lstrip", "rstrip", "single_word"):
            if entry.get(name):
                raise BundleError(
                    f"{folder / 'tokenizer.json'}: {shown(token)} sets {name}, which is not "
                    "supported; switch it off"
                )


def added_tokens(folder: Path) -> tuple[str, str]:
    """Returns the tokens that the tokenizer itself adds before and after every text.

    Raises:
        BundleError: the folder's tokenizer files cannot be read, or add anything but tokens.
    """
    path = folder / "tokenizer_config.json"
    settings = read_object(path)
    for name in ("add_bos_token", "add_eos_token"):
        if settings.get(name):
            raise BundleError(
                f"{path}: sets {name}; let the post-processor of tokenizer.json add the token"
            )
    path = folder / "tokenizer.json"
    remedy = "copy it again"
    try:
        content = read_regular(inside(path), MAX_JSON_BYTES)
        # Only what was checked encodes, because other steps may take forever.
        checked = json.loads(read_tokenizer(content).text)
        checked["post_processor"] = json.loads(content.decode("utf-8-sig")).get("post_processor")
        tokenizer = Tokenizer.from_str(json.dumps(checked))
        encoded = tokenizer.encode("a")
        plain = tokenizer.encode("a", add_special_tokens=False).ids
    except BundleError:
        raise
    except Exception as error:  # the library raises bare exceptions
        cause = reason(error) if isinstance(error, OSError) else shown(first_line(error))
        raise BundleError(f"{path}: cannot be read ({cause}); {remedy}") from None
    ids = encoded.ids
    starts = [place for place in range(len(ids)) if plain and ids[place:][: len(plain)] == plain]
    if not starts:
        raise BundleError(f"{path}: its post-processor does not keep the text; {remedy}")
    places = range(starts[0], starts[0] + len(plain))
    added = [place for place in range(len(ids)) if place not in places]
    for place in added:
        token = encoded.tokens[place]
        if not SPECIAL_TOKEN.fullmatch(token) or tokenizer.token_to_id(token) != ids[place]:
            raise BundleError(
                f"{path}: its post-processor adds {shown(repr(token))}; supported are tokens such "
                "as <|endoftext|>"
            )
    before = [encoded.tokens[place] for place in added if place < places.start]
    after = [encoded.tokens[place] for place in added if place >= places.stop]
    return "".join(before), "".join(after)
