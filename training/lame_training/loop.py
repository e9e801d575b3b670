"""The training loop: stages one after the other, one kind of step for all of them."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lame_runtime.atomic import atomic_text
from lame_runtime.contract import Preparer
from lame_runtime.errors import InputError
from torch import Tensor
from tqdm import tqdm

from lame_training import checkpoint, start
from lame_training.collate import Collator, Step
from lame_training.data import Pair, read_pairs
from lame_training.losses import info_nce, reconstruction
from lame_training.model import LaMEModel
from lame_training.packed_attention import use_packed_attention
from lame_training.recipes import Recipe, with_tasks
from lame_training.stages import Stage
from lame_training.vocabulary import END

COLUMNS = ("step", "stage", "loss", "nce", "rec", "rate", "seconds")


@dataclass(frozen=True)
class Losses:
    """One step's losses; None where the stage does not have that loss."""

    total: Tensor
    nce: float | None
    rec: float | None


def run(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    backbone: Path | None = None,
    decoder: Path | None = None,
    steps: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> None:
    """Trains `recipe` on `data` and leaves a checkpoint in `out`.

    Args:
        recipe: the run.
        data: root of the training data (`train/TASK.parquet`).
        out: the checkpoint folder.
        backbone: a folder that `save_pretrained` wrote, in place of the recipe's own; see `backbones`.
        decoder: likewise, of the latent decoder.
        steps: stop after so many steps of the whole run and write the model as it is then; 0 writes the
            initialised model. None runs all stages.
        resume: continue from the newest state in `out`.
        progress: show a progress bar.

    Raises:
        InputError: unusable data, a folder that already holds a run, a state of another recipe, a loss
            that is not finite.
    """
    if steps is not None and steps < 0:
        raise InputError(f"--steps {steps}: use 0 or more")
    recipe = with_tasks(recipe, data)
    check_folder(recipe, data, out, resume=resume)
    torch.manual_seed(recipe.seed)
    pairs = {task.name: read_pairs(data, task) for stage in recipe.stages for task in stage.tasks}
    states = checkpoint.complete_states(out) if resume else []
    architecture = checkpoint.read_architecture(out) if resume else {}
    if resume and not states and architecture["from_folder"] and backbone is None:
        raise InputError(f"{out}: no step was saved yet, so the run begins again: give its --backbone (and --decoder) once more")
    if states:
        preparer = Preparer.load(out)
        model = LaMEModel.from_configs(*start.configs(architecture))
    else:
        model, preparer = start.start(recipe, data, pairs, out, backbone, decoder)
    use_packed_attention(model.backbone.visual)
    collator = Collator(preparer, preparer.tokenizer.special(END), recipe.chunk, recipe.picture_cache_mib)

    last = recipe.steps if steps is None else min(steps, recipe.steps)
    done = int(states[-1].name.removeprefix("step-")) if states else 0
    if last < done:
        raise InputError(f"{out}: stands at step {done}, so it cannot stop at {last}; give more --steps, or train anew elsewhere")
    moments = checkpoint.load_state(states[-1], model) if states else None
    log = out / "losses.csv"
    _cut_log(log, done)

    bar = tqdm(total=last, initial=done, unit="step", disable=not progress)
    with log.open("a", newline="", encoding="utf-8") as file, bar:
        writer = csv.writer(file)
        begin = 0
        for number, stage in enumerate(recipe.stages):
            if done < min(begin + stage.steps, last):
                optimizer = stage.prepare(model)
                if moments is not None and done > begin:
                    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
                for step in range(max(done, begin), min(begin + stage.steps, last)):
                    began = time.perf_counter()
                    rows = draw_rows(stage, pairs, step - begin, (recipe.seed, number, step))
                    losses = train_step(model, stage.at(step - begin), collator, rows, optimizer, stage.rate_factor(step - begin), recipe)
                    rate = max(stage.rates.values()) * stage.rate_factor(step - begin)
                    texts = ["" if value is None else f"{value:.6f}" for value in (float(losses.total.detach()), losses.nce, losses.rec)]
                    writer.writerow([step + 1, stage.name, *texts, f"{rate:.3e}", f"{time.perf_counter() - began:.3f}"])
                    bar.set_description(stage.name)
                    bar.set_postfix_str(
                        " ".join(f"{key} {value:.3f}" for key, value in (("nce", losses.nce), ("rec", losses.rec)) if value is not None)
                    )
                    bar.update()
                    if (step + 1) % recipe.save_every == 0 and step + 1 < last:
                        file.flush()
                        checkpoint.save_state(out, step + 1, model, optimizer)
            begin += stage.steps
    checkpoint.save_model(out, model, recipe, last)


def initialise(recipe: Recipe, out: Path, backbone: Path, decoder: Path | None = None) -> None:
    """Writes the initialised model of a backbone, in the type the backbone's weights have; no data is needed.

    Raises:
        InputError: an unusable folder, or `out` already holds a run.
    """
    check_folder(recipe, None, out, resume=False)
    torch.manual_seed(recipe.seed)
    model, _ = start.start(recipe, None, {}, out, backbone, decoder)
    checkpoint.save_model(out, model, recipe, 0)


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
    if resume and not checkpoint.same_recipe(out, recipe):
        raise InputError(f"{out}: was started with another recipe; resume with that one, or choose another --out")
    if occupied and not resume:
        raise InputError(f"{out}: already holds a run; continue it with --resume, or choose another --out")
    if resume and data is not None and not checkpoint.same_data(out, data, recipe):
        raise InputError(f"{out}: was started with other training rows than {data}; resume with the same --data")


def draw_rows(stage: Stage, pairs: dict[str, list[Pair]], step: int, seed: tuple[int, ...]) -> list[Pair]:
    """The rows of one step: sub-batches of one task each, tasks by weight.

    Depends on its arguments alone, so that a run can resume anywhere.

    Args:
        stage: its tasks and batch.
        pairs: rows by task.
        step: 0-based within the stage.
        seed: of this step.
    """
    rng = np.random.default_rng(seed)
    open_tasks = [task for task in stage.tasks if step >= task.begins * stage.steps]
    weights = np.array([task.weight for task in open_tasks])
    rows: list[Pair] = []
    for _ in range(stage.batch_size // stage.sub_batch):
        available = pairs[open_tasks[int(rng.choice(len(open_tasks), p=weights / weights.sum()))].name]
        rows += [available[int(i)] for i in rng.choice(len(available), size=min(stage.sub_batch, len(available)), replace=False)]
    return rows


def train_step(
    model: LaMEModel,
    stage: Stage,
    collator: Collator,
    rows: list[Pair],
    optimizer: torch.optim.AdamW,
    rate_factor: float,
    recipe: Recipe,
) -> Losses:
    """One update. Raises `InputError` where the loss is not finite."""
    model.train()
    step = collator(rows, contrastive=stage.nce_weight > 0, reconstructing=stage.rec_weight > 0)
    losses = step_losses(model, stage, step, collator.end_id, recipe)
    if not torch.isfinite(losses.total):
        raise InputError(
            f"the loss of stage {stage.name!r} is {losses.total.item()}; lower the learning rates or resume from the last state"
        )
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * rate_factor
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
    if not torch.isfinite(norm):
        raise InputError(f"a gradient of stage {stage.name!r} is not finite; lower the learning rates or resume from the last state")
    optimizer.step()
    return losses


def step_losses(model: LaMEModel, stage: Stage, step: Step, end_id: int, recipe: Recipe) -> Losses:
    """Embeds the step's distinct inputs once and computes the stage's losses from them."""
    embeddings, states = embed_items(model, step)
    total = embeddings.new_zeros(())
    nce = rec = None
    if stage.nce_weight > 0:
        loss = info_nce(
            embeddings[step.query_N],
            embeddings[step.candidate_M],
            step.positive_N,
            step.known_false_NM,
            temperature=recipe.temperature,
            margin=recipe.false_negative_margin,
        )
        total, nce = total + stage.nce_weight * loss, float(loss.detach())
    if stage.rec_weight > 0 and len(step.decoding_R):
        prefix = torch.tensor([end_id])
        loss = reconstruction(model.reconstruction_logits(states[step.decoding_R], prefix, step.target_ids_RT), step.label_ids_RT)
        total, rec = total + stage.rec_weight * loss, float(loss.detach())
    return Losses(total, nce, rec)


def embed_items(model: LaMEModel, step: Step) -> tuple[Tensor, Tensor]:
    """Embeddings (items, P) and the states the decoder reads (items, K, D) in item order."""
    outputs = [model(chunk.inputs) for chunk in step.chunks]
    back = torch.argsort(torch.cat([chunk.items for chunk in step.chunks]))
    return torch.cat([e for e, _ in outputs])[back], torch.cat([z for _, z in outputs])[back]


def _cut_log(path: Path, steps: int) -> None:
    """Keeps the header and the rows of the first `steps` steps of losses.csv; makes the file where there is none."""
    kept = [",".join(COLUMNS)]
    if path.is_file():
        kept += [line for line in path.read_text(encoding="utf-8").splitlines()[1:] if _step_of(line) in range(1, steps + 1)]
    atomic_text(path, "\n".join(kept) + "\n")


def _step_of(line: str) -> int:
    first = line.split(",", 1)[0]
    return int(first) if first.isdigit() else 0


def read_losses(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a losses.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
