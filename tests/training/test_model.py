"""What must hold of the model: the decoder sees only Z, padding changes nothing, stages freeze what they say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lame_runtime.batching import assemble
from lame_runtime.contract import Input, Preparer
from lame_training import checkpoint as checkpoint_module
from lame_training.ablate import shuffled_reconstruction
from lame_training.checkpoint import load_model
from lame_training.collate import Collator, to_model_inputs
from lame_training.contrast import Problem, pose
from lame_training.data import Pair, read_pairs
from lame_training.gradient import Pass, accumulate
from lame_training.loop import run, train_step
from lame_training.model import PARTS, LaMEModel, ModelInputs, RecFrom
from lame_training.packed_attention import use_packed_attention
from lame_training.progress import read_losses
from lame_training.recipes import find_recipe, without_reason_tokens
from lame_training.torch_backend import load_encoder
from lame_training.world import World
from samples import rows_of

RECIPE = find_recipe("digits-tiny")
WORLD = World("cpu")


@pytest.fixture
def loaded(checkpoint: Path) -> tuple[LaMEModel, Preparer]:
    return load_model(checkpoint)


@pytest.fixture
def items(data: Path) -> list[Input]:
    """Texts of several lengths and pictures of several grids."""
    pictures = [Input(image=data / f"images/eval/{n}-00001.png") for n in (1, 2, 3, 4)]
    asked = [Input("What do the digits add up to?", picture.image) for picture in pictures]
    return [*pictures, *asked, Input("seven"), Input("digits that add up to fifteen")]


@pytest.fixture(params=["everything", "reason", "concat"])
def varied(request: pytest.FixtureRequest, loaded: tuple[LaMEModel, Preparer]) -> tuple[LaMEModel, Preparer]:
    """The model under each switch that changes how e comes about."""
    model, preparer = loaded
    if request.param != "concat":
        read_embed_alone(model)
        model.embed_attends = request.param
    return model, preparer


def read_embed_alone(model: LaMEModel) -> None:
    """Takes the head over all states off: [EMBED]'s is the vector."""
    model.pooling, model.head = "embed", torch.nn.Identity()


def inputs_of(items: list[Input], preparer: Preparer) -> ModelInputs:
    return to_model_inputs(assemble([preparer(item) for item in items], preparer.contract))


def test_the_decoder_sees_only_the_reason_states(loaded: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """With Z held fixed, another input leaves the logits unchanged; with another Z they change."""
    model, preparer = loaded
    target, prefix = torch.tensor([[5, 6, 7]] * 2), torch.tensor([0])
    with torch.no_grad():
        _, z = model(inputs_of(items[:2], preparer))
        before = model.reconstruction_logits(z, prefix, target)
        model(inputs_of(items[4:6], preparer))  # the decoder keeps no memory of what the backbone read
        assert torch.equal(model.reconstruction_logits(z, prefix, target), before)
        assert not torch.allclose(model.reconstruction_logits(z.flip(0), prefix, target), before)


def test_the_embedding_is_the_same_without_the_decoder(varied: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """Connector and decoder are training's alone."""
    model, preparer = varied
    inputs = inputs_of(items, preparer)
    with torch.no_grad():
        before, _ = model(inputs)
        assert torch.equal(model.trim()(inputs)[0], before)
    assert model.decoder is None


def test_padding_and_batch_mates_change_nothing(varied: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """Alone, in a batch, and padded by 50 more tokens of anything."""
    model, preparer = varied
    batch = inputs_of(items, preparer)
    with torch.no_grad():
        together, _ = model(batch)
        for row, item in enumerate(items):
            alone, _ = model(inputs_of([item], preparer))
            assert torch.allclose(alone[0], together[row], atol=2e-6)
        noise = torch.randint(0, 300, (len(items), 50))
        zeros = torch.zeros_like(noise)
        padded = dataclasses.replace(
            batch,
            input_ids_BL=torch.cat([batch.input_ids_BL, noise], dim=1),
            feature_index_BL=torch.cat([batch.feature_index_BL, zeros], dim=1),
            position_ids_3BL=torch.cat([batch.position_ids_3BL, zeros.expand(3, -1, -1)], dim=2),
        )
        assert torch.allclose(model(padded)[0], together, atol=2e-6)


def test_embed_may_see_the_reason_tokens_alone(loaded: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """In a model of one layer nothing of the prompt then reaches [EMBED]; in one of two it comes through the reason tokens."""
    model, preparer = loaded
    read_embed_alone(model)
    inputs = inputs_of(items, preparer)
    layers = model.backbone.language_model.layers
    spreads = {}
    with torch.no_grad():
        for depth in (2, 1):
            model.backbone.language_model.layers = layers[:depth]
            for model.embed_attends in ("everything", "reason"):
                spreads[depth, model.embed_attends] = model(inputs)[0].std(dim=0).max().item()
    assert spreads[1, "reason"] < 1e-6 < 1e-3 < min(spreads[1, "everything"], spreads[2, "reason"], spreads[2, "everything"])


@pytest.mark.parametrize(("rec_from", "states"), [("reason", 4), ("embed", 1), ("both", 5)])
def test_the_decoder_reads_the_states_it_is_told_to(
    rec_from: RecFrom, states: int, loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Z, h or both, in their order; the logits begin at the first target token whatever their number."""
    model, preparer = loaded
    inputs = inputs_of(items[:2], preparer)
    model.rec_from = rec_from
    with torch.no_grad():
        read = model(inputs)[1]
        z, h = model.latents(inputs)
        logits = model.reconstruction_logits(read, torch.tensor([0]), torch.tensor([[5, 6, 7]] * 2))
    assert torch.equal(
        read, torch.cat([z, h[:, None]], dim=1)[:, {"reason": slice(0, 4), "embed": slice(4, 5), "both": slice(0, 5)}[rec_from]]
    )
    assert read.shape[1] == states
    assert logits.shape[1] == 4


def test_switches_outlive_a_checkpoint(data: Path, tmp_path: Path) -> None:
    """A model loads with the switches it was trained with; a config from before there were any means the defaults."""
    recipe = dataclasses.replace(RECIPE, embed_attends="reason", rec_from="embed", pooling="concat")
    run(recipe, data, tmp_path / "switched", steps=1, progress=False)
    model, preparer = load_model(tmp_path / "switched")
    assert (model.embed_attends, model.rec_from, model.pooling) == ("reason", "embed", "concat")
    encoder = load_encoder(tmp_path / "switched")
    with torch.no_grad():
        ours = model(inputs_of([Input("seven")], preparer))[0].numpy()
    assert np.allclose(encoder.encode([Input("seven")]), ours, atol=1e-6)
    old = tmp_path / "old"
    run(dataclasses.replace(RECIPE, pooling="embed"), data, old, steps=0, progress=False)
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key not in checkpoint_module.SWITCHES}))
    loaded, _ = load_model(old)
    assert (loaded.embed_attends, loaded.rec_from, loaded.pooling) == ("everything", "reason", "embed")


def test_a_plain_embedder_may_be_told_to_reconstruct(data: Path, tmp_path: Path) -> None:
    """K = 0 with L_rec from [EMBED] has a decoder and trains both stages."""
    first, second = RECIPE.stages
    stages = (dataclasses.replace(first, rates={**first.rates, "embed": 1e-3}), second)
    run(dataclasses.replace(RECIPE, n_reason=0, rec_from="embed", stages=stages), data, tmp_path / "k0", steps=7, progress=False)
    model, _ = load_model(tmp_path / "k0")
    assert model.n_reason == 0
    assert model.decoder is not None
    assert [bool(row["rec"]) for row in read_losses(tmp_path / "k0/losses.csv")] == [True] * 7


def test_l_rec_ends_where_its_stage_says() -> None:
    """λ is what it was and then 0; the loss that is left is L_nce."""
    stage = dataclasses.replace(RECIPE.stages[1], steps=10, rec_weight=5.0, rec_until=0.4)
    assert [stage.at(step).rec_weight for step in range(10)] == [5.0] * 4 + [0.0] * 6
    assert dataclasses.replace(stage, rec_until=1.0).at(9).rec_weight == 5.0


def test_an_embedding_depends_on_its_picture(loaded: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """The control of the test above: pictures of the same grid do differ."""
    model, preparer = loaded
    other = Input(image=str(items[1].image).replace("00001", "00002"))
    with torch.no_grad():
        vectors, _ = model(inputs_of([items[1], other], preparer))
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-4)


def test_the_forward_equals_transformers_own_with_pixel_values(loaded: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """Our scatter of features and our positions give what Qwen2VLModel gives for ids and pixels."""
    model, preparer = loaded
    inputs = inputs_of([items[6]], preparer)
    plain = inputs.input_ids_BL[:, : -(model.n_reason + 1)]
    with torch.no_grad():
        ours = model.hidden_states(inputs, model.vision_features(inputs))[:, : plain.shape[1]]
        theirs = model.backbone(
            input_ids=plain,
            pixel_values=inputs.pixel_patches,
            image_grid_thw=inputs.grid_thw,
            mm_token_type_ids=(plain == preparer.contract.tokens.image_pad).int(),
        ).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_packed_attention_equals_transformers_attention(loaded: tuple[LaMEModel, Preparer], items: list[Input]) -> None:
    """Pictures of mixed grids, values and gradients."""
    model, preparer = loaded
    inputs = inputs_of([*items[:4], *items[:4]], preparer)
    outcomes = []
    for packed in (False, True):
        if packed:
            use_packed_attention(model.backbone.visual)
        model.zero_grad()
        features = model.vision_features(inputs)
        features.square().sum().backward()
        outcomes.append((features.detach(), model.backbone.visual.blocks[0].attn.qkv.weight.grad.clone()))
    assert torch.allclose(outcomes[0][0], outcomes[1][0], atol=1e-5)
    assert torch.allclose(outcomes[0][1], outcomes[1][1], atol=1e-3)


@pytest.mark.parametrize(
    "stage",
    [
        dataclasses.replace(RECIPE.stages[0], rates={"reason": 1e-2, "connector": 1e-2, "decoder": 1e-2}),
        dataclasses.replace(RECIPE.stages[1], rates={"reason": 1e-2, "embed": 1e-2, "language_model": 1e-2, "merger": 1e-2}),
    ],
    ids=["bottleneck warm-up of a pretrained backbone", "joint optimisation with a frozen tower"],
)
def test_frozen_parts_do_not_move_and_trained_parts_do(stage, loaded: tuple[LaMEModel, Preparer], data: Path) -> None:  # type: ignore[no-untyped-def]
    """Two steps of each stage's shape at scale."""
    model, preparer = loaded
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = stage.prepare(model)
    rows = rows_of(pair for task in stage.tasks[:3] for pair in read_pairs(data, task)[:8])
    collator = Collator(preparer, 0, 64, 8)
    batch = collator(rows, contrastive=stage.nce_weight > 0, reconstructing=True)
    for step in range(2):
        train_step(Pass(model, RECIPE, WORLD, 0), stage, batch, optimizer, step)
    for part in set(PARTS.values()):
        moved = [not torch.equal(before[name], value) for name, value in model.part(part)]
        assert any(moved) if part in stage.rates and moved else not any(moved), part


def test_gradients_are_clipped_to_the_recipes_norm(loaded: tuple[LaMEModel, Preparer], data: Path) -> None:
    """What the optimizer sees is no longer than that; the norm that is logged is the one before."""
    model, preparer = loaded
    stage = RECIPE.stages[1]
    batch = Collator(preparer, 0, 64, 8)(rows_of(read_pairs(data, stage.tasks[0])[:8]), contrastive=True, reconstructing=True)
    norms = {}
    for limit in (1e9, 0.25):
        optimizer = stage.prepare(model)
        seen: list[float] = []
        optimizer.step = lambda *_, seen=seen: seen.append(  # type: ignore[assignment,misc]
            torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()
        )
        _, logged = train_step(Pass(model, dataclasses.replace(RECIPE, clip_norm=limit), WORLD, 0), stage, batch, optimizer, 0)
        norms[limit] = seen[0], logged
    assert norms[1e9][0] == pytest.approx(norms[1e9][1]) == pytest.approx(norms[0.25][1])
    assert norms[0.25][0] == pytest.approx(0.25, rel=1e-3)
    assert norms[0.25][1] > 0.3


def test_shuffled_reason_states_reconstruct_worse(data: Path, checkpoint: Path) -> None:
    """Z carries information: after a minute of warm-up on one digit, another sample's Z decodes another digit."""
    model, preparer = load_model(checkpoint)
    use_packed_attention(model.backbone.visual)
    stage = dataclasses.replace(RECIPE.stages[0], steps=100)
    optimizer = stage.prepare(model)
    pairs = read_pairs(data, stage.tasks[0])
    collator = Collator(preparer, preparer.tokenizer.special("<|endoftext|>"), 64, 64)
    batch = collator(rows_of(pairs), contrastive=False, reconstructing=True)
    for step in range(100):
        train_step(Pass(model, RECIPE, WORLD, collator.end_id), stage, batch, optimizer, step)
    own, other = shuffled_reconstruction(model, collator, pairs)
    assert other > 2 * own


def test_a_model_without_reason_tokens_is_a_plain_embedder(data: Path, tmp_path: Path) -> None:
    """K = 0 trains and embeds with one [EMBED] row and no decoder."""
    run(without_reason_tokens(RECIPE), data, tmp_path / "k0", steps=2, progress=False)
    model, preparer = load_model(tmp_path / "k0")
    assert model.n_reason == 0
    assert model.decoder is None
    assert preparer(Input("seven")).ids[-1] == preparer.contract.tokens.first_latent


def test_positives_shared_by_rows_are_embedded_once_and_never_negatives(loaded: tuple[LaMEModel, Preparer], data: Path) -> None:
    """Twenty rows that answer "seven" share one candidate; what is right for the same query is masked."""
    _, preparer = loaded
    pairs = read_pairs(data, RECIPE.stages[0].tasks[0])

    def problem(rows: list[Pair]) -> Problem:
        step = Collator(preparer, 0, 64, 8)(rows_of(rows), contrastive=True, reconstructing=False)
        return pose(step.key_I, step.query_N, step.positive_N, step.negative_H)

    assert len(problem(pairs).candidate_M) == len({pair.positive.text for pair in pairs})
    alike = [dataclasses.replace(pairs[0], query=Input(name), positive=Input(other)) for name, other in (("one", "two"), ("two", "one"))]
    assert problem(alike).known_false_NM.sum(dim=1).tolist() == [1, 1], "a query is no negative of itself"
    twins = [dataclasses.replace(pairs[0], positive=Input(text)) for text in ("one", "uno")]
    assert problem(twins).known_false_NM.tolist() == [[False, True], [True, False]]
    hard = [dataclasses.replace(pairs[0], negatives=(Input("nine"), Input("uno"))), pairs[1]]
    assert len(problem(hard).candidate_M) == 2 + len({pair.positive.text for pair in pairs[:2]}), "everybody's candidates"
    assert not problem(hard).known_false_NM.any()


def test_one_step_on_the_whole_equals_its_chunks(loaded: tuple[LaMEModel, Preparer], data: Path) -> None:
    """Chunking is a matter of memory and speed, not of the loss."""
    model, preparer = loaded
    rows = rows_of(pair for task in RECIPE.stages[1].tasks for pair in read_pairs(data, task)[:3])
    losses = []
    for chunk in (4, 1000):
        step = Collator(preparer, 0, chunk, 8)(rows, contrastive=True, reconstructing=True)
        losses.append(accumulate(Pass(model, RECIPE, WORLD, 0), step, 1.0, 1.0).total)
    assert np.isclose(*losses, rtol=1e-5)
