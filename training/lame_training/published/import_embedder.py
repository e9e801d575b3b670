"""Writes a published embedder as a LaME checkpoint with K = 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from lame_runtime.arguments import integer
from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, UsageError, shown
from lame_runtime.files.atomic import atomic_folder, require_new
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from transformers import PreTrainedConfig

from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import Budget
from lame_training.contract_from.processor_files import image_rules
from lame_training.model.backbones import config_folder, family_of, load_backbone, read_config
from lame_training.model.checkpoint import write_imported
from lame_training.model.from_disk.tensors import inside
from lame_training.model.lame import LaMEModel, Pooling
from lame_training.published.adapter_files import check_adapter_files
from lame_training.published.forms.form_folder import form_tokenizer, read_form, with_form
from lame_training.published.forms.published_forms import PublishedForm, published_form
from lame_training.published.kept.published_head import fill_head, head_kind
from lame_training.published.rendered_prompt import published_prompt
from lame_training.published.sentence_transformers import (
    PublishedEmbedder,
    read_sentence_transformers,
)

MAX_LENGTH = 8_192
"""Longest input in tokens, if neither the caller nor the folder asks for less (ours). Published
folders state up to 262,144, which no embedder was trained on."""
PICTURE_SHARE = 0.8
"""Share of the longest input that one picture may take (ours); the rest is for the prompt."""
VISUALS = 32
"""Pictures and videos of one input (ours)."""
_NO_LIMIT = 1 << 28


@dataclass(frozen=True)
class ImportLimits:
    """Limits of one input that the imported model is used with.

    Attributes:
        max_length: tokens of the prompt; None takes the folder's, at most `MAX_LENGTH`.
        max_pixels: pixels of one picture after resizing; None keeps the folder's. In either case a
            picture takes at most four fifths of the longest input.

    Raises:
        UsageError: a limit is not a whole number above 0.
    """

    max_length: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "max_pixels"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, integer(name, value, 1, _NO_LIMIT))


def import_embedder(
    folder: Path,
    checkpoint: Path,
    limits: ImportLimits = ImportLimits(),
    form: str | None = None,
) -> Contract:
    """Writes a published embedder as a LaME checkpoint.

    The weights keep the type that they are stored in; a dense layer is stored in FP32.

    Args:
        folder: the folder of the published model.
        checkpoint: the folder to write; it must not exist.
        limits: limits of one input.
        form: the form of a folder that does not describe itself, see `published_forms`; None reads
            a Sentence Transformers folder.

    Returns:
        The contract of the checkpoint.

    Raises:
        BundleError: the folder cannot be read, or has something that is not supported.
        UsageError: a limit is above the folder's own, or too low for any input; or there is no
            such form.
        StorageError: `checkpoint` exists, or cannot be written.
    """
    # early, because reading a large model takes minutes
    require_new(checkpoint)
    chosen = None if form is None else published_form(form)
    if chosen is None:
        facts = read_sentence_transformers(folder)
    else:
        facts = read_form(folder, str(form), chosen)
    files = config_folder(facts.backbone)
    content = None if chosen is None else form_tokenizer(files, chosen)
    contract = read_contract(folder, facts, limits, chosen, content)
    if content is None:
        content = read_regular(inside(files / "tokenizer.json"), MAX_JSON_BYTES)
    model = _model(facts, contract.dim)
    kind = "Sentence Transformers" if form is None else "published form"
    source = {"format": kind, "pooling": facts.pooling, **facts.versions}
    with atomic_folder(checkpoint) as fresh:
        (fresh / "tokenizer.json").write_bytes(content)
        (fresh / "contract.json").write_text(contract.to_json(), encoding="utf-8")
        write_imported(fresh, model, source)
    return contract


def read_contract(
    folder: Path,
    facts: PublishedEmbedder,
    limits: ImportLimits,
    form: PublishedForm | None,
    tokenizer: bytes | None,
) -> Contract:
    """Derives the contract of an embedder from what its folder says; raises as above."""
    files = config_folder(facts.backbone)
    config = read_config(files)
    if form is None:
        prompt = published_prompt(
            files, family_of(config), facts.roles, facts.default_role, facts.variables
        )
    else:
        prompt = form.prompt
    width = int(config.text_config.hidden_size)
    whole = width if facts.dense is None else len(facts.dense.weight)
    dim = whole if facts.truncate_dim is None else facts.truncate_dim
    if dim > whole:
        raise BundleError(
            f"{folder}: truncate_dim is {shown(dim)}; its vectors have {whole} values: correct "
            "config_sentence_transformers.json"
        )
    longest = _longest(facts, int(config.text_config.max_position_embeddings), limits, folder)
    vision = config.vision_config
    token_pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    if limits.max_pixels is not None and limits.max_pixels < token_pixels:
        raise UsageError(
            f"`max_pixels` is {limits.max_pixels}: one token of {folder} takes {token_pixels:,} "
            f"pixels; use {token_pixels:,} or more"
        )
    least = 1
    if form is None:
        least = _smallest_picture(files, config, longest, limits, folder)
    # the largest picture has to fit into the longest prompt, or none above it could be embedded
    fitting = max(int(PICTURE_SHARE * longest), least) * token_pixels
    pixels = min(fitting, limits.max_pixels or fitting)
    budget = Budget(longest, pixels, max_frames=_NO_LIMIT, visuals=VISUALS)
    contract = derive_contract(
        files, budget, 0, dim, facts.roles, prompt, tokenizer, has_embed=False
    )
    if form is not None:
        return with_form(contract, form, pixels)
    if files != facts.backbone:
        check_adapter_files(facts, files, config, contract)
    return contract


def _smallest_picture(
    files: Path, config: PreTrainedConfig, longest: int, limits: ImportLimits, folder: Path
) -> int:
    """Returns the tokens of the smallest picture; raises if it is longer than any input.

    Raises:
        UsageError: it is, by the caller's limit.
        BundleError: it is, by the folder's.
    """
    try:
        rules = image_rules(files, config, Budget(longest, _NO_LIMIT, _NO_LIMIT))
        least = math.ceil(rules.min_pixels / (rules.patch_size * rules.merge_size) ** 2)
    except (BundleError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError):
        return 1  # `derive_contract` says what is wrong with the files
    if longest < least and limits.max_length is not None:
        raise UsageError(
            f"`max_length` is {longest}: the smallest picture of {folder} takes {least} tokens; "
            f"use {least} or more"
        )
    if longest < least:
        raise BundleError(
            f"{folder}: its longest input is {longest} tokens, and its smallest picture takes "
            f"{least}; correct max_seq_length"
        )
    return least


def _longest(facts: PublishedEmbedder, positions: int, limits: ImportLimits, folder: Path) -> int:
    """Returns the longest input in tokens."""
    own = min(positions, facts.max_length or positions)
    if limits.max_length is None:
        return min(own, MAX_LENGTH)
    if limits.max_length > own:
        raise UsageError(
            f"`max_length` is {limits.max_length}: the limit of {folder} is {own:,}; use {own:,} "
            "or less"
        )
    return limits.max_length


def _model(facts: PublishedEmbedder, dim: int) -> LaMEModel:
    """Builds the model from the weights of a folder."""
    backbone = load_backbone(facts.backbone, "auto")
    pooling: Pooling = "mean" if facts.pooling == "mean" else "embed"
    head = head_kind(facts.dense)
    model = LaMEModel(backbone, None, 0, dim, pooling=pooling, head=head)
    if facts.dense is not None:
        model.head.float()
    fill_head(model.head, facts.dense)
    # there is no [EMBED] after the prompt, but the graph's table has a row for it
    with torch.no_grad():
        model.embed_1D.zero_()
    return model
