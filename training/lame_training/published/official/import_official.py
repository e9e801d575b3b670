"""Reads the folder of LaME-2B, if its tensors are those of one possible model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, UsageError, shown
from lame_runtime.files.atomic import atomic_folder, require_new
from lame_runtime.files.json_file import MAX_JSON_BYTES
from lame_runtime.files.regular import read_regular
from torch import Tensor
from transformers import PreTrainedConfig

from lame_training.contract_from.backbone import derive_contract
from lame_training.contract_from.budget import Budget
from lame_training.model.backbones import family_of, read_config
from lame_training.model.checkpoint import (
    empty_model,
    load_weights,
    named_weights,
    write_imported,
)
from lame_training.model.from_disk.tensors import (
    check_finite,
    inside,
    read_folder_tensors,
    read_object,
)
from lame_training.model.lame import LaMEModel
from lame_training.published.import_embedder import ImportLimits
from lame_training.published.official.backbone_tensors import match_backbone, match_decoder
from lame_training.published.official.latent_tensors import LatentPlaces, match_latents
from lame_training.published.official.official_card import (
    ASSUMED,
    BUDGET,
    FORM,
    LAME_2B,
    OfficialCard,
)
from lame_training.published.official.tensor_table import TensorTable

_BACKBONE = "backbone."


def import_official(
    folder: Path,
    checkpoint: Path,
    limits: ImportLimits,
    report: Callable[[str], None] = print,
    card: OfficialCard = LAME_2B,
) -> Contract:
    """Writes the folder as a LaME checkpoint, without latent decoder.

    Args:
        folder: the published folder. Code in it is never run.
        checkpoint: the folder to write; it must not exist.
        limits: limits of one input.
        report: gets the table of what every tensor was taken for, and what is only assumed.
        card: what the model card states.

    Returns:
        The contract of the checkpoint.

    Raises:
        BundleError: the folder cannot be read, or it is not clear what a tensor is; the table that
            `report` got shows which.
        StorageError: `checkpoint` exists, or cannot be written.
    """
    require_new(checkpoint)
    config = _config(folder, card)
    weights = read_folder_tensors(folder)
    table = TensorTable({name: tuple(value.shape) for name, value in weights.items()})
    width = int(config.text_config.hidden_size)
    plain = _empty(config, card, "projection")
    expected = {
        name.removeprefix(_BACKBONE): tuple(value.shape)
        for name, value in named_weights(plain).items()
        if name.startswith(_BACKBONE)
    }
    names = match_backbone(expected, table)
    # the tensors of a damaged backbone are not shown one by one as unknown
    places = None
    if not table.problems:
        decoder = match_decoder(table, expected["language_model.embed_tokens.weight"])
        sizes = (card.n_reason, width, card.dim)
        places = match_latents(table, _tokens(folder), sizes, decoder or card.decoder_width)
    report(str(table))
    if places is None:
        raise BundleError(
            f"{folder}: {shown('; '.join(table.problems), 300)}; it is not imported, because that "
            "would be a guess: see the table, and ask the model's authors"
        )
    check_finite(weights, str(folder))
    contract = _contract(folder, card, limits)
    model = _model(
        config, card, {part: weights[name] for part, name in names.items()}, (weights, places)
    )
    report("not known, and done as in our own models:")
    for assumption in ASSUMED:
        report(f"  {assumption}")
    source = {"format": FORM, "card": card.source, "date": card.date, "assumed": list(ASSUMED)}
    content = read_regular(inside(folder / "tokenizer.json"), MAX_JSON_BYTES)
    with atomic_folder(checkpoint) as fresh:
        (fresh / "tokenizer.json").write_bytes(content)
        (fresh / "contract.json").write_text(contract.to_json(), encoding="utf-8")
        write_imported(fresh, model, source)
    return contract


def _config(folder: Path, card: OfficialCard) -> PreTrainedConfig:
    """Returns the backbone's config; raises `BundleError` if it is of another family."""
    config = read_config(folder)
    if family_of(config) != card.family:
        raise BundleError(
            f"{folder}: is a {family_of(config)} model; {card.source} names a {card.family}"
        )
    return config


def _tokens(folder: Path) -> list[tuple[str, int]]:
    """Returns the tokenizer's added tokens with their ids."""
    entries = read_object(folder / "tokenizer.json", missing_is_empty=False).get("added_tokens")
    return [
        (entry["content"], entry["id"])
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
        and isinstance(entry.get("content"), str)
        and type(entry.get("id")) is int
    ]


def _contract(folder: Path, card: OfficialCard, limits: ImportLimits) -> Contract:
    """Derives the contract; what the card does not state is as in our own models."""
    length, pixels = limits.max_length or BUDGET.max_length, limits.max_pixels or BUDGET.max_pixels
    if length > BUDGET.max_length:
        raise UsageError(f"`max_length` is {length}: use {BUDGET.max_length} or less")
    budget = Budget(length, pixels, BUDGET.max_frames)
    roles = {"query": "", "document": ""}
    return derive_contract(folder, budget, card.n_reason, card.dim, roles)


def _empty(config: PreTrainedConfig, card: OfficialCard, head: str) -> LaMEModel:
    """Returns the model of the card, without weights."""
    values: dict[str, Any] = {"n_reason": card.n_reason, "dim": card.dim, "head": head}
    return empty_model({**values, "backbone": config.to_dict()}, decoder=False)


def _model(
    config: PreTrainedConfig,
    card: OfficialCard,
    backbone: dict[str, Tensor],
    latent: tuple[dict[str, Tensor], LatentPlaces],
) -> LaMEModel:
    """Returns the model with its weights, all in the type of the embedding table."""
    weights, places = latent
    table = backbone["language_model.embed_tokens.weight"]
    width = table.shape[1]

    def rows(place: str | tuple[int, ...]) -> Tensor:
        if isinstance(place, str):
            return weights[place].reshape(-1, width)
        return table[torch.tensor(place)]

    head = {"head.weight": weights[places.weight]}
    if places.bias is not None:
        head = {"head.linear.weight": head["head.weight"], "head.linear.bias": weights[places.bias]}
    values = {f"{_BACKBONE}{name}": value for name, value in backbone.items()}
    values |= {"reason_KD": rows(places.reason), "embed_1D": rows(places.embed), **head}
    model = _empty(config, card, "projection" if places.bias is None else "dense")
    load_weights(model, {name: value.to(table.dtype) for name, value in values.items()}, FORM)
    return model
