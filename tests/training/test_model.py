"""The model's forward pass: the decoder sees only Z, and an embedding only its own input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lame_runtime.contract import Input, Preparer
from lame_runtime.contract.batch import assemble
from lame_training import train
from lame_training.data.step_batch import to_model_inputs
from lame_training.model import checkpoint as checkpoint_module
from lame_training.model.checkpoint import load_model
from lame_training.model.components import ModelInputs
from lame_training.model.lame import LaMEModel, RecFrom
from lame_training.model.packed_attention import use_packed_attention
from lame_training.model.torch_backend import load_encoder
from lame_training.recipes.catalog import find_recipe

RECIPE = find_recipe("digits-tiny")


@pytest.fixture
def loaded(checkpoint: Path) -> tuple[LaMEModel, Preparer]:
    return load_model(checkpoint)


@pytest.fixture
def items(data: Path) -> list[Input]:
    """Texts of several lengths and pictures of several grids."""
    pictures = [Input(image=data / f"images/eval/{n}-00001.png") for n in (1, 2, 3, 4)]
    questions = [Input("What do the digits add up to?", picture.image) for picture in pictures]
    return [*pictures, *questions, Input("seven"), Input("digits that add up to fifteen")]


@pytest.fixture(params=["everything", "reason", "concat"])
def varied(
    request: pytest.FixtureRequest, loaded: tuple[LaMEModel, Preparer]
) -> tuple[LaMEModel, Preparer]:
    """The model with each setting that changes how the embedding is computed."""
    model, preparer = loaded
    # the recipe's own head reads all latent states: "concat"
    if request.param != "concat":
        read_embed_alone(model)
        model.embed_attends = request.param
    return model, preparer


def read_embed_alone(model: LaMEModel) -> None:
    """Takes the head over all latent states off, so that h itself is the embedding."""
    model.pooling, model.head = "embed", torch.nn.Identity()


def inputs_of(items: list[Input], preparer: Preparer) -> ModelInputs:
    """Returns one batch of the items."""
    return to_model_inputs(assemble([preparer(item) for item in items], preparer.contract))


def test_the_decoder_sees_only_the_reason_states(
    loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Another input with the same Z leaves the logits unchanged; another Z changes them."""
    model, preparer = loaded
    target, prefix = torch.tensor([[5, 6, 7]] * 2), torch.tensor([0])
    with torch.no_grad():
        _, z = model(inputs_of(items[:2], preparer))
        before = model.reconstruction_logits(z, prefix, target)
        # the decoder must keep no memory of what the backbone has read
        model(inputs_of(items[4:6], preparer))
        assert torch.equal(model.reconstruction_logits(z, prefix, target), before)
        assert not torch.allclose(model.reconstruction_logits(z.flip(0), prefix, target), before)


def test_the_embedding_is_the_same_without_the_decoder(
    varied: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Connector and decoder serve training alone."""
    model, preparer = varied
    inputs = inputs_of(items, preparer)
    with torch.no_grad():
        # equal to the bit: the same operations, without those behind the embedding
        before, _ = model(inputs)
        assert torch.equal(model.trim()(inputs)[0], before)
    assert model.decoder is None


def test_padding_and_batch_mates_change_nothing(
    varied: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """An embedding is the same alone, in a batch, and padded with 50 arbitrary tokens."""
    model, preparer = varied
    batch = inputs_of(items, preparer)
    with torch.no_grad():
        together, _ = model(batch)
        for row, item in enumerate(items):
            alone, _ = model(inputs_of([item], preparer))
            # not bit for bit: matrix products of other shapes sum in another order
            assert torch.allclose(alone[0], together[row], atol=2e-6)
        # any ids, so that the test does not depend on the padding token
        noise = torch.randint(0, 300, (len(items), 50))
        zeros = torch.zeros_like(noise)
        padded = dataclasses.replace(
            batch,
            input_ids_BL=torch.cat([batch.input_ids_BL, noise], dim=1),
            feature_index_BL=torch.cat([batch.feature_index_BL, zeros], dim=1),
            position_ids_3BL=torch.cat([batch.position_ids_3BL, zeros.expand(3, -1, -1)], dim=2),
        )
        assert torch.allclose(model(padded)[0], together, atol=2e-6)


def test_embed_may_see_the_reason_tokens_alone(
    loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """With the prompt hidden, [EMBED] knows of it only through the reason tokens.

    In a model of one layer nothing of the prompt can reach it; a second layer passes it on.
    """
    model, preparer = loaded
    read_embed_alone(model)
    inputs = inputs_of(items, preparer)
    layers = model.backbone.language_model.layers
    spreads = {}
    with torch.no_grad():
        for depth in (2, 1):
            model.backbone.language_model.layers = layers[:depth]
            for model.embed_attends in ("everything", "reason"):
                # how far the embeddings of different inputs lie apart
                spreads[depth, model.embed_attends] = model(inputs)[0].std(dim=0).max().item()
    assert (
        spreads[1, "reason"]
        < 1e-6
        < 1e-3
        < min(spreads[1, "everything"], spreads[2, "reason"], spreads[2, "everything"])
    )


@pytest.mark.parametrize(("rec_from", "states"), [("reason", 4), ("embed", 1), ("both", 5)])
def test_the_decoder_reads_the_states_that_rec_from_names(
    rec_from: RecFrom, states: int, loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """They are Z, h, or both in this order; the logits begin at the first target token in each."""
    model, preparer = loaded
    inputs = inputs_of(items[:2], preparer)
    model.rec_from = rec_from
    with torch.no_grad():
        read = model(inputs)[1]
        z, h = model.latents(inputs)
        logits = model.reconstruction_logits(read, torch.tensor([0]), torch.tensor([[5, 6, 7]] * 2))
    rows = {"reason": slice(0, 4), "embed": slice(4, 5), "both": slice(0, 5)}[rec_from]
    assert torch.equal(read, torch.cat([z, h[:, None]], dim=1)[:, rows])
    assert read.shape[1] == states
    assert logits.shape[1] == 4


def test_a_checkpoint_keeps_the_models_switches(data: Path, tmp_path: Path) -> None:
    """A model loads with the switches it was trained with; an older config means the defaults."""
    recipe = dataclasses.replace(RECIPE, embed_attends="reason", rec_from="embed", pooling="concat")
    train(recipe, data, tmp_path / "switched", steps=1, progress=False)
    model, preparer = load_model(tmp_path / "switched")
    assert (model.embed_attends, model.rec_from, model.pooling) == ("reason", "embed", "concat")
    encoder = load_encoder(tmp_path / "switched")
    with torch.no_grad():
        ours = model(inputs_of([Input("seven")], preparer))[0].numpy()
    assert np.allclose(encoder.encode([Input("seven")]), ours, atol=1e-6)
    old = tmp_path / "old"
    train(dataclasses.replace(RECIPE, pooling="embed"), data, old, steps=0, progress=False)
    config = json.loads((old / "config.json").read_text())
    # a config that was written before there were switches
    for switch in checkpoint_module.SWITCHES:
        del config[switch]
    (old / "config.json").write_text(json.dumps(config))
    loaded, _ = load_model(old)
    assert (loaded.embed_attends, loaded.rec_from, loaded.pooling) == (
        "everything",
        "reason",
        "embed",
    )


def test_an_embedding_depends_on_its_picture(
    loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Pictures of the same grid differ: the control of the tests that find embeddings equal."""
    model, preparer = loaded
    other = Input(image=str(items[1].image).replace("00001", "00002"))
    with torch.no_grad():
        vectors, _ = model(inputs_of([items[1], other], preparer))
    assert not torch.allclose(vectors[0], vectors[1], atol=1e-4)


def test_the_forward_equals_transformers_own_with_pixel_values(
    loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Our placing of features and our positions give what Qwen2VLModel computes from pixels."""
    model, preparer = loaded
    inputs = inputs_of([items[6]], preparer)
    # transformers knows no latent tokens; under a causal mask those before them do not see them
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


def test_packed_attention_equals_transformers_attention(
    loaded: tuple[LaMEModel, Preparer], items: list[Input]
) -> None:
    """Features and gradients are equal for pictures of mixed grids."""
    model, preparer = loaded
    inputs = inputs_of([*items[:4], *items[:4]], preparer)
    # repeated, so that equally large pictures are neighbors and share a call
    outcomes = []
    for packed in (False, True):
        if packed:
            use_packed_attention(model.backbone.visual)
        model.zero_grad()
        features = model.vision_features(inputs)
        features.square().sum().backward()
        outcomes.append(
            (features.detach(), model.backbone.visual.blocks[0].attn.qkv.weight.grad.clone())
        )
    assert torch.allclose(outcomes[0][0], outcomes[1][0], atol=1e-5)
    assert torch.allclose(outcomes[0][1], outcomes[1][1], atol=1e-3)
