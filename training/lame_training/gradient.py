"""The gradient of a step's loss, chunk by chunk: GradCache (Gao et al., 2021, arXiv 2101.06983) with L_rec in its second phase.

Phase A embeds every chunk and differentiates L_nce, which needs all embeddings at once, by the embeddings alone.
Phase B goes through the chunks again, one graph at a time, with

    loss = <e, that gradient> + λ · L_rec(chunk) · (the chunk's texts / the batch's texts)

so the sum of the chunks' gradients is the whole batch's gradient and memory does not grow with the batch. Without
`gradcache` phase A keeps the graphs and phase B uses them: a third faster, for batches that fit.
One process or many, the path is the same; see `world`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lame_training.collate import Chunk, Step
from lame_training.contrast import pose
from lame_training.losses import info_nce, reconstruction
from lame_training.model import LaMEModel
from lame_training.recipes import Recipe
from lame_training.world import World


@dataclass(frozen=True)
class Losses:
    """One step's losses over the batch of all processes; None where the stage does not have that loss."""

    total: float
    nce: float | None
    rec: float | None


@dataclass(frozen=True)
class Pass:
    """How a chunk goes through the model.

    Args:
        model: in training mode.
        recipe: precision, temperature, GradCache.
        world: the processes.
        end_id: the id between latents and target.
        filler: given where the model's parameters are spread over the processes, whose forward passes must then match: what a
            process that has run out of chunks goes through for nothing.
    """

    model: LaMEModel
    recipe: Recipe
    world: World
    end_id: int
    filler: Chunk | None = None

    @property
    def sharded(self) -> bool:
        """Whether the parameters are spread over the processes."""
        return self.filler is not None

    def embed(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Embeddings (B, P) float32 and reason states (B, K, D) of a chunk."""
        with self._precision():
            found: tuple[Tensor, Tensor] = self.model(chunk.inputs(self.world.device, always_picture=self.sharded))
            return found

    def reconstruction(self, chunk: Chunk, z_BKD: Tensor) -> Tensor:
        """L_rec, summed over the chunk's texts. Where processes must match, a chunk without texts decodes an empty one for nothing."""
        device, targets = self.world.device, chunk.targets
        rows, ids, labels = targets.row_R, targets.ids_RT, targets.label_RT
        if not len(rows):
            rows, ids = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
            labels = torch.full((1, 1), self.end_id)
        with self._precision():
            logits = self.model.reconstruction_logits(z_BKD[rows.to(device)], torch.tensor([self.end_id], device=device), ids.to(device))
        return reconstruction(logits, labels.to(device)) * len(targets.row_R)

    def _precision(self) -> AbstractContextManager[object]:
        if self.recipe.precision == "bf16" and not self.sharded:
            return torch.autocast(self.world.device.type, torch.bfloat16)
        return nullcontext()


def accumulate(run: Pass, step: Step, nce_weight: float, rec_weight: float) -> Losses:
    """Adds the gradient of the step's loss to `.grad`: this process's part of it, to be summed over the processes unless sharded.

    Args:
        run: the model and how it is run.
        step: this process's rows.
        nce_weight: of L_nce.
        rec_weight: λ, of L_rec.

    Returns:
        The losses of the whole batch, the same in every process.
    """
    chunks, own = list(step.chunks), len(step.chunks)
    if run.filler is not None:
        chunks += [run.filler] * (run.world.most(own) - own)
    decoded = run.world.total(sum(len(chunk.targets.row_R) for chunk in step.chunks))
    nce: float | None = None
    seen: list[tuple[Tensor, Tensor | None]] = []
    dice: list[Tensor] = []
    gradient_IP = None
    if nce_weight > 0:
        with torch.set_grad_enabled(not run.recipe.gradcache):
            for chunk in chunks:
                dice.append(_dice(run.world.device))
                e_BP, z_BKD = run.embed(chunk)
                seen.append((e_BP, None if run.recipe.gradcache else z_BKD))
        gradient_IP, nce = _by_embeddings(run, step, [e.detach() for e, _ in seen[:own]])
        gradient_IP *= nce_weight

    rec = torch.zeros((), device=run.world.device)
    for number, chunk in enumerate(chunks):
        kept = seen[number][1] if seen else None
        if kept is not None:
            e_BP, z_BKD = seen[number][0], kept
            seen[number] = (e_BP, None)
        else:
            with _same_dice(dice[number], run.world.device) if dice else nullcontext():
                e_BP, z_BKD = run.embed(chunk)
        counts = number < own
        loss = e_BP.new_zeros(())
        if gradient_IP is not None:
            loss = (e_BP * gradient_IP[chunk.items.to(e_BP.device)]).sum() if counts else 0 * e_BP.sum()
        if rec_weight > 0 and decoded and (run.sharded or len(chunk.targets.row_R)):
            part = run.reconstruction(chunk, z_BKD) / decoded * counts
            loss = loss + rec_weight * part
            rec += part.detach()
        if loss.requires_grad:
            loss.backward()
    measured = run.world.total(float(rec)) if rec_weight > 0 and decoded else None
    total = nce_weight * (nce or 0.0) + rec_weight * (measured or 0.0)
    return Losses(total, nce, measured)


def _by_embeddings(run: Pass, step: Step, parts: list[Tensor]) -> tuple[Tensor, float]:
    """L_nce of the batch of all processes and its gradient by this process's embeddings (I, P)."""
    if parts:
        back = torch.argsort(torch.cat([chunk.items for chunk in step.chunks])).to(run.world.device)
        own_IP = torch.cat(parts)[back].requires_grad_()
    else:  # none of this process's rows could be used
        own_IP = torch.zeros(0, run.model.dim, device=run.world.device, requires_grad=True)
    gathered_IP, start = run.world.gather(own_IP)
    every_IP = torch.cat([gathered_IP[:start], own_IP, gathered_IP[start + len(own_IP) :]])
    keys, queries, positives, negatives = (
        run.world.gather(rows.to(run.world.device))[0]
        for rows in (step.key_I, step.query_N + start, step.positive_N + start, step.negative_H + start)
    )
    problem = pose(keys, queries, positives, negatives)
    loss = own_IP.new_zeros(())
    lengths = (own_IP.shape[1], *run.recipe.matryoshka)
    for length in lengths:
        prefix = every_IP if length == own_IP.shape[1] else F.normalize(every_IP[:, :length], dim=-1)
        loss = loss + info_nce(
            prefix[problem.query_N],
            prefix[problem.candidate_M],
            problem.positive_N,
            problem.known_false_NM,
            temperature=run.recipe.temperature,
            margin=run.recipe.false_negative_margin,
        )
    loss = loss / len(lengths)
    (gradient_IP,) = torch.autograd.grad(loss, own_IP)
    return gradient_IP, float(loss.detach())


def _dice(device: torch.device) -> Tensor:
    """The state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _same_dice(state: Tensor, device: torch.device) -> Iterator[None]:
    """Phase B drops what phase A dropped."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
