"""Step 0 of a run: its folder, tokenizer, contract and model, from a recipe alone or from a backbone's folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lame_runtime.atomic import atomic_path
from lame_runtime.contract import Contract, Preparer, TokenRules, TowerRules
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import InputError
from transformers import PreTrainedModel, Qwen2VLConfig, Qwen3Config, Qwen3ForCausalLM

from lame_training import checkpoint
from lame_training.adapters import LoRA, add_lora
from lame_training.backbones import FAMILIES, config_folder, load_backbone, load_decoder
from lame_training.data import Pair
from lame_training.derive import derive_contract, limits, published_videos, within_budget
from lame_training.model import LaMEModel, decodes
from lame_training.recipes import Recipe
from lame_training.vocabulary import CHAT_END, END, train_tokenizer


def check_folder(recipe: Recipe, data: Path | None, out: Path, *, resume: bool) -> None:
    """Checks that `out` may become, or already is, the folder of this run.

    Args:
        recipe: the run.
        data: root of the training data; None where it is yet to be written.
        out: the checkpoint folder.
        resume: whether a run must already be there; it must have had the same recipe and training rows.

    Raises:
        InputError: the folder holds another run, or none to resume.
    """
    if recipe.seed < 0:
        raise InputError(f"--seed {recipe.seed}: use 0 or more")
    occupied = (out / "recipe.json").is_file()
    if resume and not occupied:
        raise InputError(f"{out}: holds no run to resume; start it without --resume")
    if resume and (differing := checkpoint.differs_from(out, recipe)):
        raise InputError(f"{out}: was started with another recipe (differs in {differing}); resume with that one, or choose another --out")
    if occupied and not resume:
        raise InputError(f"{out}: already holds a run; continue it with --resume, or choose another --out")
    if resume and data is not None and not checkpoint.same_data(out, data, recipe):
        raise InputError(f"{out}: was started with other training rows than {data}; resume with the same --data")


def start(
    recipe: Recipe,
    data: Path | None,
    rows: Iterable[Sequence[Pair]],
    out: Path,
    backbone: Path | None,
    decoder: Path | None,
    *,
    write: bool = True,
) -> tuple[LaMEModel, Preparer]:
    """The model and contract of step 0; what a run must remember is written into `out`.

    Args:
        recipe: the run.
        data: root of the training data; None where there is none to train on.
        rows: of its data sets, from which a recipe without backbone trains its tokenizer.
        out: the checkpoint folder.
        backbone: see `loop.run`.
        decoder: see `loop.run`.
        write: whether to write; False where another process has written the folder already.

    Raises:
        InputError: a folder that cannot be used, or a recipe that needs one.
    """
    if backbone is None and recipe.scratch is None:
        raise InputError(f"recipe {recipe.name} needs a backbone: give the folder of one with --backbone")
    if backbone is not None:  # before anything is written
        if out.resolve() in (backbone.resolve(), config_folder(backbone).resolve()):
            raise InputError(f"{out}: is the backbone's own folder; choose another --out")
        contract = derive_contract(backbone, recipe.budget, recipe.n_reason, recipe.dim, {"query": "", "document": ""})
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made ({error.strerror}); choose another --out") from None
    file = out / "tokenizer.json"
    if backbone is None:
        assert recipe.scratch is not None
        if write:
            texts = sorted({text for pairs in rows for pair in pairs for text in _texts(pair)})
            train_tokenizer(texts, recipe.scratch.vocab_size, file)
        tokenizer = TextTokenizer(file)
        contract = scratch_contract(recipe, tokenizer)
        made: PreTrainedModel = FAMILIES["qwen2_vl"].model(scratch_config(recipe, tokenizer))
    else:
        if write:
            with atomic_path(file) as fresh:
                shutil.copyfile(config_folder(backbone) / "tokenizer.json", fresh)
        tokenizer = TextTokenizer(file)
        # what is only initialised keeps the folder's type; training computes in FP32
        made = load_backbone(backbone, "auto" if data is None else torch.float32)
    latent = latent_decoder(recipe, decoder, made, tokenizer)
    model = LaMEModel(made, latent, recipe.n_reason, recipe.dim, recipe.embed_attends, recipe.rec_from, recipe.pooling)
    model.initialise_latents(tokenizer.special(CHAT_END))
    if recipe.lora is not None:
        add_lora(model.backbone, recipe.lora)
    if not write:
        return model, Preparer(contract, tokenizer)
    checkpoint.write_contract(out, contract)
    if data is not None:
        checkpoint.write_data(out, data, recipe)
    checkpoint.write_architecture(out, model, from_folder=backbone is not None)
    checkpoint.write_recipe(out, recipe)
    return model, Preparer(contract, tokenizer)


def _texts(pair: Pair) -> Iterator[str]:
    """Every text of a row, what is only decoded included."""
    for item in (pair.query, pair.positive, *pair.negatives):
        yield from (part for part in item.parts if isinstance(part, str))
    yield from (text for text in (pair.query_decodes, pair.positive_decodes) if text)


def rebuild(architecture: dict[str, Any], lora: LoRA | None) -> LaMEModel:
    """The model that a run in progress trains, its weights still to be filled in; see `checkpoint.read_architecture`."""
    model = checkpoint.described_model(architecture)
    if lora is not None:
        add_lora(model.backbone, lora)
    return model


def scratch_contract(recipe: Recipe, tokenizer: TextTokenizer) -> Contract:
    """The contract of a model trained from nothing; latent ids start behind the embedding table."""
    assert recipe.scratch is not None
    tokens = TokenRules(
        image_pad=tokenizer.special("<|image_pad|>"),
        video_pad=tokenizer.special("<|video_pad|>"),
        pad=tokenizer.special(END),
        first_latent=recipe.scratch.vocab_size,
        n_reason=recipe.n_reason,
        max_length=recipe.budget.max_length,
    )
    images, family = recipe.scratch.images, "qwen2_vl"
    videos = within_budget(published_videos(family), images, recipe.budget)
    return Contract(family, recipe.dim, recipe.scratch.prompt, tokens, images, videos, TowerRules(), limits(recipe.budget, images))


def scratch_config(recipe: Recipe, tokenizer: TextTokenizer) -> Qwen2VLConfig:
    """The config of a backbone trained from nothing."""
    assert recipe.scratch is not None
    config = recipe.scratch.config
    return Qwen2VLConfig(
        **{**config, "text_config": {**config["text_config"], **_words(recipe.scratch.vocab_size, tokenizer)}},
        image_token_id=tokenizer.special("<|image_pad|>"),
        video_token_id=tokenizer.special("<|video_pad|>"),
        vision_start_token_id=tokenizer.special("<|vision_start|>"),
        vision_end_token_id=tokenizer.special("<|vision_end|>"),
    )


def latent_decoder(recipe: Recipe, folder: Path | None, backbone: PreTrainedModel, tokenizer: TextTokenizer) -> PreTrainedModel | None:
    """The decoder from `folder`, or a freshly initialised one of the recipe's shape, or None without L_rec.

    Raises:
        InputError: a decoder that knows other tokens than the backbone, whose targets it must read.
    """
    if recipe.decoder is None or not decodes(recipe.n_reason, recipe.rec_from):
        if folder is not None:
            raise InputError(no_decoder(recipe))
        return None
    rows = backbone.config.text_config.vocab_size
    if folder is None:
        return Qwen3ForCausalLM(Qwen3Config(**_words(rows, tokenizer), **recipe.decoder)).to(backbone.dtype)
    loaded = load_decoder(folder, backbone.dtype)
    if loaded.config.vocab_size < tokenizer.size:
        raise InputError(f"{folder}: knows {loaded.config.vocab_size} tokens, the backbone's tokenizer has {tokenizer.size}; use another")
    if (own := folder / "tokenizer.json").is_file() and TextTokenizer(own).encode(PROBE) != tokenizer.encode(PROBE):
        raise InputError(f"{folder}: its tokenizer is not the backbone's, whose tokens it must reconstruct; use another decoder")
    return loaded


def no_decoder(recipe: Recipe) -> str:
    """What is said to --decoder where the recipe has none."""
    return f"recipe {recipe.name} has no latent decoder; leave --decoder out"


PROBE = "The quick brown fox adds 12 and 34; das größte Haus, 数字加起来是十五 🙂\n"


def _words(rows: int, tokenizer: TextTokenizer) -> dict[str, Any]:
    return {"vocab_size": rows, "bos_token_id": None, "eos_token_id": tokenizer.special(CHAT_END)}
