"""The model, tokenizer and contract that a run begins with.

A run begins with random weights, with a pretrained backbone's folder, or with the newest state of
the run that it resumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.contract import Contract, Preparer
from lame_runtime.contract.tokens import TextTokenizer
from lame_runtime.errors import BundleError, TrainingError, UsageError, first_line, shown
from lame_runtime.files.atomic import atomic_path
from transformers import PreTrainedModel

from lame_training.contract_from.tokenizer_training import CHAT_END, trained_tokenizer
from lame_training.data import Pair
from lame_training.data.pairs import training_texts
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.adapters import LoRA, add_lora
from lame_training.model.backbones import FAMILIES, config_folder, load_backbone
from lame_training.model.checkpoint import described_model, load_preparer, save_model, write_recipe
from lame_training.model.lame import LaMEModel
from lame_training.published.kept.starting_contract import (
    Beginning,
    KeptEmbedder,
    check_same_contract,
    starting_contract,
)
from lame_training.recipes.latent_decoder import latent_decoder
from lame_training.recipes.recipe import Recipe
from lame_training.recipes.scratch_backbone import (
    FAMILY,
    needs_backbone,
    scratch_config,
    scratch_contract,
)
from lame_training.run import run_folder
from lame_training.run.resume import Moments, complete_states, load_state, step_of
from lame_training.run.train_options import TrainOptions


@dataclass(frozen=True)
class StartingPoint:
    """The model that a process begins to train, on the CPU and not sharded.

    Attributes:
        model: weights of step 0 or of the newest state.
        preparer: contract and tokenizer.
        moments: the optimizer's moments of the state; empty at step 0, and emptied once the
            optimizer has them.
        step: number of steps that are done.
    """

    model: LaMEModel
    preparer: Preparer
    moments: Moments
    step: int


def starting_point(
    recipe: Recipe,
    data: Path,
    output: Path,
    rows: Sequence[Sequence[Pair]],
    options: TrainOptions,
    processes: ProcessGroup,
) -> StartingPoint:
    """Loads the newest state if the run is resumed and has one, and initializes the model if not.

    Args:
        recipe: the run's recipe.
        data: root of the training data.
        output: the output folder.
        rows: the rows of every data set.
        options: `resume`, `backbone` and `decoder`.
        processes: the processes of the run.

    Raises:
        UsageError: the run is complete, or its backbone must be given again.
        BundleError: a state or a folder cannot be used.
        TrainingError: the processes initialized different weights.
    """
    states: list[Path] = []
    architecture: dict[str, Any] = {}
    if options.resume:
        if run_folder.steps_of(output) == recipe.steps:
            raise UsageError(
                f"{output}: is complete, all {recipe.steps} steps are done; "
                "train longer with another recipe and another `output`"
            )
        states = complete_states(output)
        architecture = run_folder.read_architecture(output)
        if not states:
            _check_restart(output, architecture, options)
    # everything below that is initialized draws from the recipe's seed
    torch.manual_seed(recipe.seed)
    if states:
        newest = states[-1]
        model = rebuild(architecture, recipe.lora, output)
        moments = load_state(newest, model)
        return StartingPoint(model, load_preparer(output), moments, step_of(newest))
    # the main process writes the tokenizer that the others then read
    if not processes.is_main_process:
        processes.barrier()
    model, preparer = initialize_run(
        recipe,
        data,
        rows,
        output,
        options.start,
        options.decoder_folder,
        write=processes.is_main_process,
        allow_outside=options.allow_outside,
    )
    if processes.is_main_process:
        processes.barrier()
    _check_equal_weights(model, processes)
    return StartingPoint(model, preparer, {}, 0)


def _check_restart(output: Path, architecture: dict[str, Any], options: TrainOptions) -> None:
    """Checks that a run without any state can begin again; raises `UsageError` if not."""
    # the folder remembers the architecture, but not where pretrained weights came from
    if architecture["from_folder"] and options.backbone is None:
        raise UsageError(
            f"{output}: no step has been saved yet, so the run begins again: "
            "give its `backbone` (and `decoder`) again"
        )


def _check_equal_weights(model: LaMEModel, processes: ProcessGroup) -> None:
    """Checks that every process initialized the same weights; raises `TrainingError` if not."""
    # a sum, because gathering the weights themselves of all processes would not fit in memory
    own_sum = sum(parameter.detach().double().abs().sum() for parameter in model.parameters())
    if len(set(processes.all_gather_object(float(own_sum)))) > 1:
        raise TrainingError(
            "the processes start from different weights; "
            "use the same versions, files and seed in all of them"
        )


def initialize(
    recipe: Recipe,
    output: Path,
    backbone: Path | KeptEmbedder,
    decoder: Path | None = None,
) -> None:
    """Writes the initialized model on a backbone as a checkpoint, without any data.

    The weights keep the type that they have in the backbone's folder.

    Args:
        recipe: K, dim, budget and switches of the model.
        output: the checkpoint folder.
        backbone: a local folder that `save_pretrained` wrote, or a PEFT adapter of one; or a
            published embedder of which more than the weights is kept.
        decoder: a local folder of the latent decoder; None starts it from random weights.

    Raises:
        BundleError: a folder cannot be used.
        UsageError: the recipe cannot keep this.
        StorageError: `output` already holds a run, or cannot be written.
    """
    run_folder.check_folder(recipe, None, output, resume=False)
    torch.manual_seed(recipe.seed)
    model, _ = initialize_run(recipe, None, [], output, backbone, decoder)
    save_model(output, model, recipe, 0)


def initialize_run(
    recipe: Recipe,
    data: Path | None,
    rows: Iterable[Sequence[Pair]],
    output: Path,
    backbone: Path | KeptEmbedder | None,
    decoder: Path | None,
    *,
    write: bool = True,
    allow_outside: bool = False,
) -> tuple[LaMEModel, Preparer]:
    """Initializes the model and contract of step 0.

    The output folder is made; what a resumed run needs is written into it.

    Args:
        recipe: the run's recipe.
        data: root of the training data; None if there is nothing to train on.
        rows: rows of the data sets, on which a recipe without a backbone trains its tokenizer.
        output: the output folder.
        backbone: the backbone's folder, or a published embedder; None trains the recipe's own
            backbone from random weights.
        decoder: the latent decoder's folder; None starts it from random weights.
        write: whether to write; False if another process has already written the folder.
        allow_outside: whether paths and links may lead out of `data`.

    Raises:
        UsageError: the recipe needs a backbone, or has no latent decoder.
        BundleError: a folder cannot be used.
        StorageError: the output folder cannot be made.
    """
    # The order of everything below that draws random numbers (backbone, decoder, head and
    # connector, latent rows, adapters) is part of what a seed means.
    pooling = None
    if backbone is None:
        # the recipe's own Qwen2-VL; a folder that is given takes its place even if there is one
        scratch = _from_scratch(recipe, rows, output, write=write)
        contract, tokenizer, content, vision_language = scratch
    else:
        # weights that are only initialized keep the folder's type; training holds them in FP32
        dtype = "auto" if data is None else torch.float32
        start = _from_folder(recipe, backbone, output)
        contract, tokenizer, content = start.contract, start.tokenizer, start.content
        pooling = start.pooling
        vision_language = load_backbone(start.backbone, dtype)
    model = LaMEModel(
        vision_language,
        latent_decoder(recipe, decoder, vision_language, tokenizer),
        recipe.n_reason,
        recipe.dim,
        recipe.embed_attends,
        recipe.rec_from,
        recipe.pooling if pooling is None else pooling.pooling,
        "projection" if pooling is None else pooling.head,
    )
    # after the backbone has its weights: latent rows start at the embedding of the turn's end
    model.initialize_latents(tokenizer.special(CHAT_END))
    if pooling is not None:
        pooling.start(model)
    if recipe.lora is not None:
        add_lora(model.backbone, recipe.lora)
    if write:
        # not before everything is read: a folder that cannot be used leaves no file
        run_folder.make_output_folder(output)
        # byte for byte: the runtime's tokenizer must split texts as the backbone was trained to
        with atomic_path(output / "tokenizer.json") as fresh:
            fresh.write_bytes(content)
        run_folder.write_contract(output, contract)
        # without data there are no rows whose hashes could be recorded
        if data is not None:
            run_folder.write_data(output, data, recipe, allow_outside=allow_outside)
        run_folder.write_architecture(output, model, from_folder=backbone is not None)
        # last: its presence says that the folder holds a run that can be resumed
        write_recipe(output, recipe)
    return model, Preparer(contract, tokenizer)


def _from_scratch(
    recipe: Recipe, rows: Iterable[Sequence[Pair]], output: Path, *, write: bool
) -> tuple[Contract, TextTokenizer, bytes, PreTrainedModel]:
    """Makes contract, tokenizer with its file, and backbone from the recipe and texts of rows."""
    if recipe.scratch is None:
        raise UsageError(needs_backbone(recipe))
    file = output / "tokenizer.json"
    size = recipe.scratch.vocab_size
    content = trained_tokenizer(training_texts(rows), size) if write else file.read_bytes()
    tokenizer = TextTokenizer(file, content=content)
    contract = scratch_contract(recipe, recipe.scratch, tokenizer)
    backbone = FAMILIES[FAMILY].model(scratch_config(recipe.scratch, tokenizer))
    return contract, tokenizer, content, backbone


def _from_folder(recipe: Recipe, backbone: Path | KeptEmbedder, output: Path) -> Beginning:
    """Derives the contract from a backbone's folder, which the run must not write to."""
    # before anything is written: the run's files would replace the backbone's
    start = starting_contract(recipe, backbone)
    folders = {start.folder, start.backbone, config_folder(start.backbone)}
    if output.resolve() in {folder.resolve() for folder in folders}:
        raise UsageError(f"{output}: is the backbone's own folder; choose another `output`")
    check_same_contract(output, start.contract)
    return start


def rebuild(architecture: dict[str, Any], lora: LoRA | None, folder: Path) -> LaMEModel:
    """Builds the model of a run in progress; its weights are still to be loaded.

    Args:
        architecture: from `run_folder.read_architecture`.
        lora: the recipe's adapters.
        folder: the output folder, for the message.

    Raises:
        BundleError: no model can be built from these values.
    """
    try:
        model = described_model(architecture)
        if lora is not None:
            add_lora(model.backbone, lora)
    # several libraries validate configs, each with its own exceptions
    except Exception as error:
        raise BundleError(
            f"{folder / 'architecture.json'}: describes no model "
            f"({shown(first_line(error), 160)}); train again in another folder"
        ) from None
    return model
