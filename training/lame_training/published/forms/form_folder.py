"""Reads the folder of a published embedder whose form the caller names."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, shown
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from lame_runtime.files.tokenizer_json import read_tokenizer

from lame_training.model.backbones import config_folder, family_of, read_config
from lame_training.model.from_disk.merging.adapter_settings import CONFIG as ADAPTER_CONFIG
from lame_training.model.from_disk.tensors import inside, reason
from lame_training.published.adapter_files import check_adapter_tokenizer
from lame_training.published.forms.published_forms import PublishedForm
from lame_training.published.rendered_prompt import added_tokens
from lame_training.published.sentence_transformers import PublishedEmbedder


def read_form(folder: Path, name: str, form: PublishedForm) -> PublishedEmbedder:
    """Reads a folder that holds a backbone, or an adapter of one.

    Args:
        folder: the folder. A script in it is not run, and a `modules.json` is not read.
        name: the form's name, for messages.
        form: the form.

    Raises:
        BundleError: the folder is no backbone, or not one of this form.
    """
    if not any(os.path.lexists(folder / file) for file in ("config.json", ADAPTER_CONFIG)):
        raise BundleError(f"{folder / 'config.json'}: is missing; copy the folder again")
    files = config_folder(folder)
    family = family_of(read_config(files))
    if family not in form.families:
        raise BundleError(
            f"{folder}: is a {family} model; the form {name} is of {', '.join(form.families)}"
        )
    if files != folder:
        check_adapter_tokenizer(folder, files)
    before, after = added_tokens(files)
    if before or after != form.added:
        raise BundleError(
            f"{files / 'tokenizer.json'}: adds {shown(before + after) or 'nothing'} to a text, but "
            f"the form {name} needs {form.added or 'nothing'}; copy the model's own tokenizer.json"
        )
    return PublishedEmbedder(
        backbone=folder,
        pooling="lasttoken",
        dense=None,
        roles=form.prompt.roles,
        default_role=form.prompt.default_role,
        variables={},
        truncate_dim=None,
        max_length=form.max_length,
        versions={"form": name, "source": form.source, "date": form.date},
    )


def form_tokenizer(files: Path, form: PublishedForm) -> bytes:
    """Returns a folder's `tokenizer.json`, with the form's special tokens marked as special.

    A trainer may add them as ordinary tokens, which a user's text could then contain.

    Raises:
        BundleError: the file cannot be read, or lacks one of the tokens.
    """
    path = files / "tokenizer.json"
    try:
        content = read_regular(inside(path), MAX_JSON_BYTES)
        if not form.special_tokens:
            return content
        read_tokenizer(content)  # checks what the file holds
        tokenizer = json.loads(content.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: cannot be read ({shown(reason(error))}); copy it again"
        ) from None
    entries = {entry["content"]: entry for entry in tokenizer["added_tokens"]}
    for token in form.special_tokens:
        if token not in entries:
            raise BundleError(f"{path}: has no token {token}; name another form with `form`")
        entries[token]["special"] = True
    return json.dumps(tokenizer, ensure_ascii=False).encode("utf-8")


def with_form(contract: Contract, form: PublishedForm, max_pixels: int) -> Contract:
    """Returns a contract with the rules of a form in place of those of the folder.

    Args:
        contract: what was derived from the folder.
        form: the form.
        max_pixels: largest area of a picture that fits into the longest prompt, or less.
    """
    most = min(form.max_pixels, max_pixels)
    return replace(
        contract,
        images=replace(contract.images, max_pixels=most, min_pixels=min(form.min_pixels, most)),
        videos=replace(contract.videos, **form.videos),
        tokens=replace(contract.tokens, positions="sequential" if form.sequential else "mrope"),
    )
