"""Training steps: frozen parts stay, gradients are clipped, negatives are the right ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from lame_runtime.contract import Input, Preparer
from lame_training import train
from lame_training.data import Pair, read_pairs
from lame_training.data.collate import Collator
from lame_training.distributed.processes import ProcessGroup
from lame_training.model.checkpoint import load_model
from lame_training.model.components import PARTS
from lame_training.model.lame import LaMEModel
from lame_training.model.packed_attention import use_packed_attention
from lame_training.objective.gradcache import ForwardContext, accumulate
from lame_training.objective.negatives import Candidates, build_candidates
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.digits_recipes import without_reason_tokens
from lame_training.recipes.stages import Stage
from lame_training.run.loop import train_step
from lame_training.run.progress import read_losses
from lame_training.studies.probe_reason_tokens import shuffled_reconstruction
from samples import rows_of

RECIPE = find_recipe("digits-tiny")
WORLD = ProcessGroup("cpu")


@pytest.fixture
def loaded(checkpoint: Path) -> tuple[LaMEModel, Preparer]:
    return load_model(checkpoint)


def test_a_plain_embedder_can_be_trained_to_reconstruct(data: Path, tmp_path: Path) -> None:
    """A model with K = 0 and L_rec from [EMBED] has a decoder and trains in both stages."""
    first, second = RECIPE.stages
    stages = (dataclasses.replace(first, rates={**first.rates, "embed": 1e-3}), second)
    train(
        dataclasses.replace(RECIPE, n_reason=0, rec_from="embed", stages=stages),
        data,
        tmp_path / "k0",
        steps=7,
        progress=False,
    )
    model, _ = load_model(tmp_path / "k0")
    assert model.n_reason == 0
    assert model.decoder is not None
    assert [bool(row["rec"]) for row in read_losses(tmp_path / "k0/losses.csv")] == [True] * 7


def test_l_rec_ends_after_its_share_of_the_stage() -> None:
    """λ is constant and then 0, which leaves L_nce alone."""
    stage = dataclasses.replace(RECIPE.stages[1], steps=10, rec_weight=5.0, rec_until=0.4)
    assert [stage.at(step).rec_weight for step in range(10)] == [5.0] * 4 + [0.0] * 6
    assert dataclasses.replace(stage, rec_until=1.0).at(9).rec_weight == 5.0


@pytest.mark.parametrize(
    "stage",
    [
        dataclasses.replace(
            RECIPE.stages[0], rates={"reason": 1e-2, "connector": 1e-2, "decoder": 1e-2}
        ),
        dataclasses.replace(
            RECIPE.stages[1],
            rates={"reason": 1e-2, "embed": 1e-2, "language_model": 1e-2, "merger": 1e-2},
        ),
    ],
    ids=["bottleneck warm-up of a pretrained backbone", "joint optimization with a frozen tower"],
)
def test_frozen_parts_do_not_move_and_trained_parts_do(
    stage: Stage, loaded: tuple[LaMEModel, Preparer], data: Path
) -> None:
    """Two steps of each stage, with the parts that the published recipes train in it."""
    model, preparer = loaded
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = stage.prepare(model)
    rows = rows_of(pair for task in stage.tasks[:3] for pair in read_pairs(data, task)[:8])
    collator = Collator(preparer, 0, 64, 8)
    batch = collator(rows, contrastive=stage.nce_weight > 0, reconstructing=True)
    for step in range(2):
        train_step(ForwardContext(model, RECIPE, WORLD, 0), stage, batch, optimizer, step)
    for part in set(PARTS.values()):
        moved = [not torch.equal(before[name], value) for name, value in model.part(part)]
        # a part without parameters, such as an identity head, cannot move
        assert any(moved) if part in stage.rates and moved else not any(moved), part


def test_gradients_are_clipped_to_the_recipes_norm(
    loaded: tuple[LaMEModel, Preparer], data: Path
) -> None:
    """The optimizer sees a gradient of that norm; the norm before clipping is logged."""
    model, preparer = loaded
    stage = RECIPE.stages[1]
    batch = Collator(preparer, 0, 64, 8)(
        rows_of(read_pairs(data, stage.tasks[0])[:8]), contrastive=True, reconstructing=True
    )
    norms = {}
    # a limit that clips nothing, and one below the gradient's norm
    for limit in (1e9, 0.25):
        optimizer = stage.prepare(model)
        seen: list[float] = []
        # records the norm of the gradient in place of the update
        optimizer.step = lambda *_, seen=seen: seen.append(  # type: ignore[assignment,misc]
            torch.nn.utils.get_total_norm(
                [p.grad for p in model.parameters() if p.grad is not None]
            ).item()
        )
        _, logged = train_step(
            ForwardContext(model, dataclasses.replace(RECIPE, clip_norm=limit), WORLD, 0),
            stage,
            batch,
            optimizer,
            0,
        )
        norms[limit] = seen[0], logged
    assert norms[1e9][0] == pytest.approx(norms[1e9][1]) == pytest.approx(norms[0.25][1])
    assert norms[0.25][0] == pytest.approx(0.25, rel=1e-3)
    assert norms[0.25][1] > 0.3


def test_shuffled_reason_states_reconstruct_worse(data: Path, checkpoint: Path) -> None:
    """Z carries information: after a short warm-up, another sample's Z decodes another digit."""
    model, preparer = load_model(checkpoint)
    use_packed_attention(model.backbone.visual)
    stage = dataclasses.replace(RECIPE.stages[0], steps=100)
    optimizer = stage.prepare(model)
    pairs = read_pairs(data, stage.tasks[0])
    # one chunk that holds all rows, which `shuffled_reconstruction` needs
    collator = Collator(preparer, preparer.tokenizer.special("<|endoftext|>"), 64, 64)
    batch = collator(rows_of(pairs), contrastive=False, reconstructing=True)
    for step in range(100):
        train_step(
            ForwardContext(model, RECIPE, WORLD, collator.end_id), stage, batch, optimizer, step
        )
    own, other = shuffled_reconstruction(model, collator, pairs)
    assert other > 2 * own


def test_a_model_without_reason_tokens_is_a_plain_embedder(data: Path, tmp_path: Path) -> None:
    """With K = 0 a model trains and embeds with [EMBED] alone and without a decoder."""
    train(without_reason_tokens(RECIPE), data, tmp_path / "k0", steps=2, progress=False)
    model, preparer = load_model(tmp_path / "k0")
    assert model.n_reason == 0
    assert model.decoder is None
    assert preparer(Input("seven")).ids[-1] == preparer.contract.tokens.first_latent


def test_positives_shared_by_rows_are_embedded_once_and_never_negatives(
    loaded: tuple[LaMEModel, Preparer], data: Path
) -> None:
    """Twenty rows that answer "seven" share one candidate, and one query's positives are masked."""
    _, preparer = loaded
    pairs = read_pairs(data, RECIPE.stages[0].tasks[0])

    def candidates(rows: list[Pair]) -> Candidates:
        batch = Collator(preparer, 0, 64, 8)(rows_of(rows), contrastive=True, reconstructing=False)
        return build_candidates(batch.key_I, batch.query_N, batch.positive_N, batch.negative_H)

    assert len(candidates(pairs).candidate_M) == len({pair.positive.text for pair in pairs})
    # each row's query is the other row's positive
    crossed = [
        dataclasses.replace(pairs[0], query=Input(name), positive=Input(other))
        for name, other in (("one", "two"), ("two", "one"))
    ]
    assert candidates(crossed).known_false_NM.sum(dim=1).tolist() == [1, 1], (
        "a query is not its own negative"
    )
    # two rows with one query and different positives
    twins = [dataclasses.replace(pairs[0], positive=Input(text)) for text in ("one", "uno")]
    assert candidates(twins).known_false_NM.tolist() == [[False, True], [True, False]]
    # two hard negatives that are no row's positive
    hard = [dataclasses.replace(pairs[0], negatives=(Input("nine"), Input("uno"))), pairs[1]]
    assert len(candidates(hard).candidate_M) == 2 + len(
        {pair.positive.text for pair in pairs[:2]}
    ), "hard negatives are candidates of every row"
    assert not candidates(hard).known_false_NM.any()


def test_one_step_on_the_whole_equals_its_chunks(
    loaded: tuple[LaMEModel, Preparer], data: Path
) -> None:
    """Chunks are a matter of memory and speed and do not change the loss."""
    model, preparer = loaded
    rows = rows_of(pair for task in RECIPE.stages[1].tasks for pair in read_pairs(data, task)[:3])
    losses = []
    # several chunks, the last of them smaller, and a single one
    for chunk in (4, 1000):
        batch = Collator(preparer, 0, chunk, 8)(rows, contrastive=True, reconstructing=True)
        losses.append(accumulate(ForwardContext(model, RECIPE, WORLD, 0), batch, 1.0, 1.0).total)
    assert np.isclose(*losses, rtol=1e-5)
