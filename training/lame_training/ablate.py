"""Do the reason tokens matter? Three measurements on a checkpoint, printed by `python -m lame_training.ablate CHECKPOINT DATA`.

hit@1 with each query's reason rows swapped for another's, or dropped; L_rec with another sample's reason states.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lame_runtime.batching import assemble, plan_batches
from lame_runtime.cli import run_command
from lame_runtime.contract.prompts import Input
from lame_runtime.retrieval import Vectors, distinct, embed_rows, evaluate, read_rows
from torch import Tensor

from lame_training.checkpoint import load_model
from lame_training.collate import Collator, Row, to_model_inputs
from lame_training.data import Pair
from lame_training.losses import reconstruction
from lame_training.model import LaMEModel, ModelInputs
from lame_training.torch_backend import load_encoder_and_model
from lame_training.vocabulary import END

Floats = npt.NDArray[np.float32]


def reason_ablation(checkpoint: Path, data: Path, task: str, split: str = "eval") -> dict[str, float]:
    """Measures one task three times.

    "swapped" lets [EMBED] read, in every layer, the reason rows that another query of the batch produced;
    "dropped" lets it read the prompt alone.

    Args:
        checkpoint: a model with reason tokens.
        data: root of the evaluation data.
        task: a task of it.
        split: "eval" or "valid".

    Returns:
        hit@1 under "whole", "swapped" and "dropped", and the mean cosine of the query embeddings of the
        last two to the first ("cosine swapped", "cosine dropped").
    """
    encoder, model = load_encoder_and_model(checkpoint)
    rows = {task: read_rows(data, task, split)}
    vectors = embed_rows(lambda items, role: encoder.encode(items, role=role), rows)
    queries = distinct(row.query for row in rows[task])
    candidates = [item for row in rows[task] for item in row.candidates]
    prepared = [encoder.preparer(query, "query") for query in queries]
    whole = np.stack([vectors.query(query) for query in queries])
    figures = {"whole": evaluate(rows, vectors)[0].hit_at_1}
    for name, embed_changed in (("swapped", embed_swapped), ("dropped", embed_dropped)):
        changed = np.empty_like(whole)
        for chosen in plan_batches(prepared, 32):
            batch = assemble([prepared[i] for i in chosen], encoder.preparer.contract)
            changed[chosen] = embed_changed(model, to_model_inputs(batch))

        def embed(items: list[Input], role: str, changed: Floats = changed) -> Floats:
            return changed if role == "query" else vectors.documents(items)

        figures[name] = evaluate(rows, Vectors(embed, queries, candidates))[0].hit_at_1
        figures[f"cosine {name}"] = float((whole * changed).sum(1).mean())
    return figures


@torch.inference_mode()
def shuffled_reconstruction(model: LaMEModel, collator: Collator, pairs: Sequence[Pair]) -> tuple[float, float]:
    """L_rec, in nats per token, from each sample's own Z and from the next sample's.

    Args:
        model: with its decoder.
        collator: of the model's contract, with chunks that hold all samples.
        pairs: samples in an order in which neighbours have different texts.
    """
    step = collator([Row("", number, pair) for number, pair in enumerate(pairs)], contrastive=False, reconstructing=True)
    (chunk,) = step.chunks
    targets = chunk.targets
    z_RKD = model(chunk.inputs(torch.device("cpu")))[1][targets.row_R]
    prefix = torch.tensor([collator.end_id])
    own, other = (
        reconstruction(model.reconstruction_logits(states, prefix, targets.ids_RT), targets.label_RT).item()
        for states in (z_RKD, z_RKD.roll(1, dims=0))
    )
    return own, other


@torch.inference_mode()
def embed_dropped(model: LaMEModel, inputs: ModelInputs) -> Floats:
    """Embeddings with the reason rows hidden from [EMBED], and zeros where the head would read them: (B, P)."""
    b, length = inputs.input_ids_BL.shape
    visible_B1LL = torch.ones(length, length, dtype=torch.bool).tril().expand(b, 1, -1, -1).clone()
    if model.embed_attends == "reason":
        visible_B1LL = model.reason_only_mask(inputs)
    rows = _reason_rows(model, inputs)
    visible_B1LL[torch.arange(b)[:, None], 0, inputs.embed_index_B[:, None], rows] = False
    hidden_BLD = model.hidden_states(inputs, model.vision_features(inputs), visible_B1LL)
    z_BKD, h_BD = model.take_latents(hidden_BLD, inputs.embed_index_B)
    return model.embedding(torch.zeros_like(z_BKD), h_BD).numpy()


@torch.inference_mode()
def embed_swapped(model: LaMEModel, inputs: ModelInputs) -> Floats:
    """Embeddings with every layer's reason rows taken from another query of the batch: (B, P)."""
    rows = _reason_rows(model, inputs)
    batch = torch.arange(len(rows))[:, None]
    layers = list(model.backbone.language_model.layers)
    seen: list[Tensor] = []

    def record(_: Any, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0][batch, rows])

    z_BKD, _ = _hooked(layers, [record] * len(layers), model, inputs)

    def swap(layer: int) -> Any:
        def replace(_: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states = arguments[0].clone()
            states[batch, rows] = seen[layer].roll(1, dims=0)
            return (states, *arguments[1:])

        return replace

    _, h_BD = _hooked(layers, [swap(layer) for layer in range(len(layers))], model, inputs)
    return model.embedding(z_BKD.roll(1, dims=0), h_BD).numpy()


def _hooked(layers: list[Any], hooks: list[Any], model: LaMEModel, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
    handles = [layer.register_forward_pre_hook(hook) for layer, hook in zip(layers, hooks, strict=True)]
    try:
        return model.latents(inputs)
    finally:
        for handle in handles:
            handle.remove()


def _reason_rows(model: LaMEModel, inputs: ModelInputs) -> Tensor:
    """Columns of the reason rows: (B, K)."""
    return inputs.embed_index_B[:, None] + torch.arange(-model.n_reason, 0)


def _held_out_pairs(data: Path, task: str, split: str) -> list[Pair]:
    """Evaluation rows as samples of L_rec: the side that holds a picture decodes the other's text."""
    pairs = []
    for row in read_rows(data, task, split):
        query, positive = row.query, row.candidates[0]
        if positive.text:
            pairs.append(Pair(query, positive, positive.text, None))
        elif query.text:
            pairs.append(Pair(query, positive, None, query.text))
    return pairs


def main(arguments: list[str] | None = None) -> int:
    """Prints the three measurements as a Markdown table."""
    parser = argparse.ArgumentParser(description="Do the reason tokens of a checkpoint matter?")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--task", action="append", help="may be repeated; without it digit, sum2, find2 and same2")
    parser.add_argument("--split", default="eval", choices=["eval", "valid"])
    parser.set_defaults(run=_report)
    return run_command(parser, arguments, "nothing was written")


def _report(options: argparse.Namespace) -> int:
    model, preparer = load_model(options.checkpoint)
    collator = Collator(preparer, preparer.tokenizer.special(END), 100_000, 0)
    print("| task | hit@1 | swapped | dropped | cosine swapped | cosine dropped | L_rec | L_rec, another's Z |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for task in options.task or ("digit", "sum2", "find2", "same2"):
        f = reason_ablation(options.checkpoint, options.data, task, options.split)
        pairs = _held_out_pairs(options.data, task, options.split)
        losses = shuffled_reconstruction(model, collator, pairs) if pairs else None
        rec = "– | –" if losses is None else f"{losses[0]:.3f} | {losses[1]:.3f}"
        hits = f"{f['whole']:.3f} | {f['swapped']:.3f} | {f['dropped']:.3f}"
        print(f"| {task} | {hits} | {f['cosine swapped']:.3f} | {f['cosine dropped']:.3f} | {rec} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
