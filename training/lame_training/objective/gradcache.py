"""The gradient of one step's loss, chunk by chunk: GradCache (arXiv 2101.06983), with L_rec.

L_nce needs the embeddings of the whole batch at once, but their graphs do not fit into memory. So a
step has two phases:

    A  Every chunk is embedded without a graph. L_nce is computed from all embeddings and
       differentiated with respect to them alone; call that gradient g.
    B  Every chunk is embedded again, with a graph, and differentiated on its own, with the loss

           <e, g> + λ · L_rec(chunk) · (texts of the chunk / texts of the batch)

The gradient of <e, g> with respect to the parameters is that of L_nce by the chain rule, so the
chunks' gradients add up to the gradient of the whole batch, in the memory of one chunk. Without
`Recipe.gradcache` phase A keeps its graphs and phase B uses them, which is a third faster if the
batch fits into memory.

One process and several take the same path; see `distributed.processes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lame_training.data.step_batch import Chunk, StepBatch
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.lame import LaMEModel
from lame_training.objective.losses import info_nce, reconstruction
from lame_training.objective.negatives import build_candidates
from lame_training.recipes.recipe import Recipe


@dataclass(frozen=True)
class Losses:
    """The losses of one step over the batch of all processes."""

    total: float
    """The weighted sum that is minimized."""
    nce: float | None
    """L_nce; None if the stage has no contrastive loss."""
    rec: float | None
    """L_rec; None if the stage has no reconstruction loss, or no row of the step decodes a text."""


@dataclass(frozen=True)
class ForwardContext:
    """The model, and everything that its forward passes in training depend on.

    Args:
        model: in training mode.
        recipe: precision, temperature, GradCache and further settings of the losses.
        world: all processes of the run.
        end_id: id of the token between the latent states and the target text.
        filler: a dummy chunk, given if and only if the parameters are sharded. FSDP2 gathers them
            in every forward and backward pass, so all processes must run the same number of passes.
            A process that has fewer chunks than another runs this one for the rest, with a loss
            of zero.
    """

    model: LaMEModel
    recipe: Recipe
    world: ProcessGroup
    end_id: int
    filler: Chunk | None = None

    @property
    def sharded(self) -> bool:
        """Is true if the parameters are sharded over the processes (FSDP2)."""
        return self.filler is not None

    def embed(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Runs the model on a chunk.

        Returns:
            Embeddings (B, P) float32, and the states that the decoder reads, usually Z (B, K, D).
        """
        # if sharded, the vision tower has to run in every process or in none
        inputs = chunk.inputs(self.world.device, always_picture=self.sharded)
        with self._precision():
            outputs: tuple[Tensor, Tensor] = self.model(inputs)
            return outputs

    def reconstruction(self, chunk: Chunk, z_BKD: Tensor) -> Tensor:
        """Returns L_rec of a chunk, summed over its texts.

        A chunk without texts decodes an empty one and returns zero, so that the decoder runs in
        every process if its parameters are sharded.
        """
        device, targets = self.world.device, chunk.targets
        rows, ids, labels = targets.row_R, targets.ids_RT, targets.label_RT
        if not len(rows):
            rows, ids = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64)
            labels = torch.full((1, 1), self.end_id)
        with self._precision():
            logits = self.model.reconstruction_logits(
                z_BKD[rows.to(device)], torch.tensor([self.end_id], device=device), ids.to(device)
            )
        return reconstruction(logits, labels.to(device)) * len(targets.row_R)

    def _precision(self) -> AbstractContextManager[object]:
        """Returns the context that computes in the recipe's precision."""
        # FSDP2 has a policy of its own; see `sharding.shard_model`
        if self.recipe.precision == "bf16" and not self.sharded:
            return torch.autocast(self.world.device.type, torch.bfloat16)
        return nullcontext()


@dataclass
class _Embedded:
    """One chunk after phase A."""

    e_BP: Tensor
    """The embeddings, without graph."""
    rng_state: Tensor
    """The state of the random generator before the chunk's forward pass."""
    outputs: tuple[Tensor, Tensor] | None
    """The outputs of `ForwardContext.embed` with their graph; None with GradCache."""


def accumulate(
    context: ForwardContext, batch: StepBatch, nce_weight: float, rec_weight: float
) -> Losses:
    """Adds the gradient of the step's loss to `.grad` of the parameters.

    With several processes this is the part of the gradient that flows through this process's rows.
    The parts have to be summed (`ProcessGroup.sum_gradients`), unless parameters are sharded: FSDP2
    has summed them by then.

    Args:
        context: the model and what its forward passes depend on.
        batch: this process's rows.
        nce_weight: weight of L_nce; 0 leaves out phase A.
        rec_weight: λ, the weight of L_rec; with 0 the decoder does not run.

    Returns:
        The losses over the batch of all processes, the same in every process.
    """
    chunks, own = list(batch.chunks), len(batch.chunks)
    if context.filler is not None:
        chunks += [context.filler] * (context.world.all_reduce_max(own) - own)
    own_texts = sum(len(chunk.targets.row_R) for chunk in batch.chunks)
    # of all processes: L_rec is a mean over the batch, which one process's part does not know
    texts = context.world.all_reduce_sum(own_texts)
    nce: float | None = None
    embedded: list[_Embedded] = []
    gradient_IP = None
    if nce_weight > 0:
        embedded = _embed_chunks(context, chunks)
        gradient_IP, nce = _gradient_by_embeddings(
            context, batch, [chunk.e_BP for chunk in embedded[:own]]
        )
        gradient_IP *= nce_weight

    rec = torch.zeros((), device=context.world.device)
    for number, chunk in enumerate(chunks):
        is_filler = number >= own
        e_BP, z_BKD = _embed_again(context, chunk, embedded[number] if embedded else None)
        loss = e_BP.new_zeros(())
        if gradient_IP is not None:
            # a filler goes backward as well: that, too, gathers parameters
            loss = (
                0 * e_BP.sum()
                if is_filler
                else (e_BP * gradient_IP[chunk.items.to(e_BP.device)]).sum()
            )
        if rec_weight > 0 and texts and (context.sharded or len(chunk.targets.row_R)):
            # a weight of zero, so that a filler's decoder pass has a backward pass as well
            share = context.reconstruction(chunk, z_BKD) / texts * (not is_filler)
            loss = loss + rec_weight * share
            rec += share.detach()
        # a chunk may have no loss at all: no L_nce in this stage, and no text
        if loss.requires_grad:
            loss.backward()
    rec_mean = context.world.all_reduce_sum(float(rec)) if rec_weight > 0 and texts else None
    total = nce_weight * (nce or 0.0) + rec_weight * (rec_mean or 0.0)
    return Losses(total, nce, rec_mean)


def _embed_chunks(context: ForwardContext, chunks: list[Chunk]) -> list[_Embedded]:
    """Runs phase A: embeds every chunk, without a graph if the recipe uses GradCache."""
    gradcache = context.recipe.gradcache
    embedded = []
    with torch.set_grad_enabled(not gradcache):
        for chunk in chunks:
            rng_state = _rng_state(context.world.device)
            outputs = context.embed(chunk)
            embedded.append(
                _Embedded(outputs[0].detach(), rng_state, None if gradcache else outputs)
            )
    return embedded


def _embed_again(
    context: ForwardContext, chunk: Chunk, embedded: _Embedded | None
) -> tuple[Tensor, Tensor]:
    """Returns the outputs of a chunk with their graph, for phase B.

    Args:
        context: the model and what its forward passes depend on.
        chunk: the chunk.
        embedded: the chunk after phase A; None if the step has no phase A.
    """
    if embedded is None:
        return context.embed(chunk)
    if embedded.outputs is not None:
        # given away, so that the graph is freed as soon as the chunk has been differentiated
        outputs, embedded.outputs = embedded.outputs, None
        return outputs
    with _replay_rng(embedded.rng_state, context.world.device):
        return context.embed(chunk)


def _gradient_by_embeddings(
    context: ForwardContext, batch: StepBatch, chunk_embeddings: list[Tensor]
) -> tuple[Tensor, float]:
    """Computes L_nce over all processes and differentiates it by this process's embeddings.

    Args:
        context: the model and what its forward passes depend on.
        batch: this process's rows.
        chunk_embeddings: (B, P) for each of its chunks.

    Returns:
        The gradient (I, P) for the I items of this process, and L_nce.
    """
    world = context.world
    if chunk_embeddings:
        # chunks are sorted by length; this brings the embeddings into the order of the items
        order = torch.argsort(torch.cat([chunk.items for chunk in batch.chunks])).to(world.device)
        own_IP = torch.cat(chunk_embeddings)[order].requires_grad_()
    else:
        # none of this process's rows could be used, but the collectives below need all processes
        own_IP = torch.zeros(0, context.model.dim, device=world.device, requires_grad=True)
    gathered_IP, start = world.all_gather_rows(own_IP)
    # The gathered copies are constants. Our own rows are put back in their place, so that the loss
    # can be differentiated by them; every other process does the same for its rows.
    all_IP = torch.cat([gathered_IP[:start], own_IP, gathered_IP[start + len(own_IP) :]])
    # the indices of items count from this process's first item
    keys, queries, positives, negatives = (
        world.all_gather_rows(rows.to(world.device))[0]
        for rows in (
            batch.key_I,
            batch.query_N + start,
            batch.positive_N + start,
            batch.negative_H + start,
        )
    )
    candidates = build_candidates(keys, queries, positives, negatives)
    loss = own_IP.new_zeros(())
    # Matryoshka representation learning (arXiv 2205.13147): the mean over prefixes of the embedding
    lengths = (own_IP.shape[1], *context.recipe.matryoshka)
    for length in lengths:
        prefix_IP = all_IP
        if length != own_IP.shape[1]:
            prefix_IP = F.normalize(all_IP[:, :length], dim=-1)
        loss = loss + info_nce(
            prefix_IP[candidates.query_N],
            prefix_IP[candidates.candidate_M],
            candidates.positive_N,
            candidates.known_false_NM,
            temperature=context.recipe.temperature,
            margin=context.recipe.false_negative_margin,
        )
    loss = loss / len(lengths)
    (gradient_IP,) = torch.autograd.grad(loss, own_IP)
    return gradient_IP, float(loss.detach())


def _rng_state(device: torch.device) -> Tensor:
    """Returns the state of the generator that dropout draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _replay_rng(state: Tensor, device: torch.device) -> Iterator[None]:
    """Sets the random generator to `state` inside the block, and to its present state afterwards.

    Phase B has to drop what phase A dropped: g is the gradient at the embeddings of phase A.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
