"""Measures whether a trained checkpoint uses its reason tokens.

Per task there are three measurements:

- hit@1 with each query's reason tokens replaced by those of another query ("swapped");
- hit@1 with the reason tokens hidden from [EMBED] ("dropped");
- L_rec, the loss of the latent decoder, from another sample's reason states.

If the reason tokens carry something, each is worse than the figure of the unchanged model. Axes in
names are those of `lame_training.model.lame`.

    rows = probe(Path("runs/digits"), Path("runs/digits/data"))
    print(table(rows))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lame_runtime.batching import plan_batches
from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.prompts import Input, distinct_inputs
from torch import Tensor

from lame_training.contract_from.tokenizer_training import END
from lame_training.data import Pair
from lame_training.data.collate import Collator
from lame_training.data.step_batch import BatchRow, to_model_inputs
from lame_training.evaluation.retrieval import Vectors, embed_rows, evaluate, read_rows
from lame_training.model.checkpoint import load_model
from lame_training.model.components import ModelInputs
from lame_training.model.lame import LaMEModel
from lame_training.model.torch_backend import load_encoder_and_model
from lame_training.objective.losses import reconstruction

TASKS = ("digit", "sum2", "find2", "same2")
"""Tasks of the digits that are probed by default: those that the demo's model solves."""
HEADER = (
    "| task | hit@1 | swapped | dropped | cosine swapped | cosine dropped | L_rec "
    "| L_rec, another's Z |"
)
RULE = "| --- " * 8 + "|"
"""The line between `HEADER` and the rows."""
BATCH_SIZE = 32
"""Queries of a batch; reason tokens are swapped within it."""


@dataclass(frozen=True)
class ProbeRow:
    """The measurements of one task."""

    task: str
    figures: dict[str, float]
    """The result of `reason_ablation`."""
    reconstruction: tuple[float, float] | None
    """The result of `shuffled_reconstruction`; None if no text of the task can be decoded."""

    def markdown(self) -> str:
        """Returns a row below `HEADER`."""
        names = ("whole", "swapped", "dropped", "cosine swapped", "cosine dropped")
        columns = [self.task, *(f"{self.figures[name]:.3f}" for name in names)]
        losses = self.reconstruction
        # image-to-image tasks have no text to decode
        columns += ["–", "–"] if losses is None else [f"{loss:.3f}" for loss in losses]
        return f"| {' | '.join(columns)} |"


def probe(
    checkpoint: Path, data: Path, tasks: Sequence[str] = TASKS, split: str = "eval"
) -> Iterator[ProbeRow]:
    """Measures tasks one after the other, and yields a row as soon as it is measured.

    Args:
        checkpoint: a checkpoint with reason tokens and a latent decoder.
        data: root of the evaluation data, such as the digits.
        tasks: names of tasks of the data.
        split: "eval" or "valid".

    Raises:
        BundleError: the checkpoint cannot be used.
        StorageError: the rows of a task cannot be read.
        InputError: a row cannot be used.
        UsageError: the checkpoint has no latent decoder.
    """
    # with its latent decoder, which `load_encoder_and_model` leaves out
    model, preparer = load_model(checkpoint)
    # One chunk for all samples of a task: their states are exchanged within it.
    collator = Collator(preparer, preparer.tokenizer.special(END), chunk=100_000, cache_mib=0)
    for task in tasks:
        figures = reason_ablation(checkpoint, data, task, split)
        pairs = held_out_pairs(data, task, split)
        losses = shuffled_reconstruction(model, collator, pairs) if pairs else None
        yield ProbeRow(task, figures, losses)


def table(rows: Iterable[ProbeRow]) -> str:
    """Returns a Markdown table of the rows."""
    return "\n".join([HEADER, RULE, *(row.markdown() for row in rows)])


def reason_ablation(
    checkpoint: Path, data: Path, task: str, split: str = "eval"
) -> dict[str, float]:
    """Measures hit@1 of one task with the reason tokens unchanged, swapped and dropped.

    "swapped" lets [EMBED] read, in every layer, the reason rows that another query of the batch
    produced; "dropped" lets it read the prompt alone.

    Args:
        checkpoint: a model with reason tokens.
        data: root of the evaluation data.
        task: name of a task of the data.
        split: "eval" or "valid".

    Returns:
        hit@1 under "whole" (unchanged), "swapped" and "dropped". Under "cosine swapped" and "cosine
        dropped": the mean cosine between the changed and the unchanged embeddings of the queries.

    Raises:
        BundleError: the checkpoint cannot be used.
        StorageError: the rows cannot be read.
        InputError: a row cannot be used.
    """
    encoder, model = load_encoder_and_model(checkpoint)
    rows = {task: read_rows(data, task, split)}
    vectors = embed_rows(lambda items, role: encoder.encode(items, role=role), rows)
    # as `Vectors` will ask for them: each distinct query once, in order of appearance
    queries = distinct_inputs(row.query for row in rows[task])
    candidates = [item for row in rows[task] for item in row.candidates]
    prepared = [encoder.preparer(query, "query") for query in queries]
    unchanged = np.stack([vectors.query(query) for query in queries])
    figures = {"whole": evaluate(rows, vectors)[0].hit_at_1}
    for name, embed_changed in (("swapped", embed_swapped), ("dropped", embed_dropped)):
        changed = np.empty_like(unchanged)
        for indices in plan_batches(prepared, BATCH_SIZE):
            batch = assemble([prepared[i] for i in indices], encoder.preparer.contract)
            changed[indices] = embed_changed(model, to_model_inputs(batch))

        # The default binds this loop's array. Candidates keep their vectors: only queries change.
        def embed(items: list[Input], role: str, changed: Floats = changed) -> Floats:
            return changed if role == "query" else vectors.documents(items)

        figures[name] = evaluate(rows, Vectors(embed, queries, candidates))[0].hit_at_1
        # unit rows, so the product is the cosine
        figures[f"cosine {name}"] = float((unchanged * changed).sum(1).mean())
    return figures


@torch.inference_mode()
def shuffled_reconstruction(
    model: LaMEModel, collator: Collator, pairs: Sequence[Pair]
) -> tuple[float, float]:
    """Measures L_rec from each sample's own states, and from the next sample's.

    Args:
        model: the model with its latent decoder.
        collator: lays out samples by the model's contract, in chunks that hold all of them.
        pairs: samples with texts to decode, in an order in which neighbors have different texts.

    Returns:
        The two losses in nats per token.

    Raises:
        UsageError: the model has no latent decoder.
    """
    step_batch = collator(
        [BatchRow("", number, pair) for number, pair in enumerate(pairs)],
        contrastive=False,
        reconstructing=True,
    )
    (chunk,) = step_batch.chunks
    targets = chunk.targets
    # R: the texts to decode, each with the states of the sample that it belongs to
    z_RKD = model(chunk.inputs(torch.device("cpu")))[1][targets.row_R]
    # the same prefix as in training, see `gradcache`
    prefix = torch.tensor([collator.end_id])
    losses = []
    for states_RKD in (z_RKD, z_RKD.roll(1, dims=0)):
        logits = model.reconstruction_logits(states_RKD, prefix, targets.ids_RT)
        losses.append(reconstruction(logits, targets.label_RT).item())
    own, other = losses
    return own, other


def held_out_pairs(data: Path, task: str, split: str) -> list[Pair]:
    """Reads evaluation rows as samples of L_rec: pairs of a query and its right candidate.

    The query decodes the candidate's text. If the candidate has none (it is a picture), it decodes
    the query's. Rows without text on either side are left out.

    Raises:
        StorageError: the rows cannot be read.
        InputError: a row cannot be used.
    """
    pairs = []
    for row in read_rows(data, task, split):
        query, positive = row.query, row.candidates[0]
        if positive.text:
            pairs.append(Pair(query, positive, positive.text, None))
        elif query.text:
            pairs.append(Pair(query, positive, None, query.text))
    return pairs


@torch.inference_mode()
def embed_dropped(model: LaMEModel, inputs: ModelInputs) -> Floats:
    """Embeds inputs with the reason tokens hidden from [EMBED], in every layer.

    A head that reads the reason states as well gets zeros in their place.

    Returns:
        float32 (B, P).
    """
    batch, length = inputs.input_ids_BL.shape
    # cloned, because the rows of an expanded tensor share their memory
    visible_LL = torch.ones(length, length, dtype=torch.bool).tril()
    visible_B1LL = visible_LL.expand(batch, 1, -1, -1).clone()
    # a mask that is given takes the place of the model's own
    if model.embed_attends == "reason":
        visible_B1LL = model.reason_only_mask(inputs)
    columns_BK = _reason_columns(model, inputs)
    # only the row of [EMBED] changes: the reason tokens still attend to all before them
    embed_B1 = inputs.embed_index_B[:, None]
    visible_B1LL[torch.arange(batch)[:, None], 0, embed_B1, columns_BK] = False
    hidden_BLD = model.hidden_states(inputs, model.vision_features(inputs), visible_B1LL)
    z_BKD, h_BD = model.take_latents(hidden_BLD, inputs.embed_index_B)
    return model.embedding(torch.zeros_like(z_BKD), h_BD).numpy()


@torch.inference_mode()
def embed_swapped(model: LaMEModel, inputs: ModelInputs) -> Floats:
    """Embeds inputs with every layer's reason rows taken from another input of the batch.

    Returns:
        float32 (B, P). A batch of one input is unchanged.
    """
    columns_BK = _reason_columns(model, inputs)
    rows_B1 = torch.arange(len(columns_BK))[:, None]
    layers = list(model.backbone.language_model.layers)
    recorded: list[Tensor] = []

    def record(_: Any, arguments: tuple[Tensor, ...]) -> None:
        # positional: the blocks of transformers get the states as their first argument
        recorded.append(arguments[0][rows_B1, columns_BK])

    def swap(layer: int) -> Any:
        def replace(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states = arguments[0].clone()
            states[rows_B1, columns_BK] = recorded[layer].roll(1, dims=0)
            return (states, *arguments[1:])

        return replace

    # Two passes, so that the rows that are swapped in come from an unchanged pass of another input.
    z_BKD, _ = _latents_with_hooks(layers, [record] * len(layers), model, inputs)
    swaps = [swap(layer) for layer in range(len(layers))]
    _, h_BD = _latents_with_hooks(layers, swaps, model, inputs)
    return model.embedding(z_BKD.roll(1, dims=0), h_BD).numpy()


def _latents_with_hooks(
    layers: list[Any], hooks: list[Any], model: LaMEModel, inputs: ModelInputs
) -> tuple[Tensor, Tensor]:
    """Returns `model.latents(inputs)`, with a hook before each layer."""
    handles = [
        layer.register_forward_pre_hook(hook) for layer, hook in zip(layers, hooks, strict=True)
    ]
    try:
        return model.latents(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _reason_columns(model: LaMEModel, inputs: ModelInputs) -> Tensor:
    """Returns the columns of the reason tokens, int64 (B, K): the K before [EMBED]."""
    return inputs.embed_index_B[:, None] + torch.arange(-model.n_reason, 0)
