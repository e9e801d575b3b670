"""A run may keep prompt and pooling of a published embedder besides its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lame_training
import numpy as np
import pytest
import torch
from folder_edits import as_adapter, both, copied, fields, replaced, write
from lame_runtime.contract import Contract
from lame_runtime.errors import BundleError, UsageError
from lame_runtime.inputs import as_input
from lame_training.__main__ import main
from lame_training.model.checkpoint import load_model
from lame_training.model.torch_backend import load_encoder
from lame_training.published.import_embedder import ImportLimits, import_embedder
from lame_training.published.kept.starting_contract import KeptEmbedder
from lame_training.recipes.catalog import find_recipe
from lame_training.recipes.recipe import Recipe
from lame_training.run.initialization import initialize
from lame_training.run.train_options import TrainOptions
from published_folders import Form, load_published, mixed_inputs, write_published

LEAST_COSINE = 0.99999
PROMPTS = {"query": "Find it.", "document": "", "clause": " Which clause? "}
FORMS = {
    "last token": Form(prompts=PROMPTS),
    "no assistant turn": Form(generation=False, prompts=PROMPTS),
    "end of text": Form(end_token=True, prompts=PROMPTS),
    "mean": Form("mean", prompts=PROMPTS),
    "dense with tanh": Form(dense="tanh", prompts=PROMPTS, default="clause"),
    "mean, dense": Form("mean", dense="identity", prompts=PROMPTS),
}


def recipe(n_reason: int = 0, dim: int = 64, **values: Any) -> Recipe:
    """Returns a recipe whose limits the inputs of the tests are within."""
    base = find_recipe("digits-k0" if n_reason == 0 else "digits-tiny")
    budget = replace(base.budget, max_length=1024, max_pixels=65_536)
    return replace(base, n_reason=n_reason, dim=dim, budget=budget, **values)


def cosines(first: Any, second: Any) -> Any:
    """Returns the cosine of each row of two arrays, in FP64."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / lengths


@pytest.mark.parametrize("name", FORMS)
def test_without_reason_tokens_a_run_begins_with_the_published_vectors(
    name: str, published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """Prompt and pooling kept: ids but for the last, and vectors, are Sentence Transformers'."""
    form = FORMS[name]
    folder = write_published(
        published_backbone("qwen3_vl", form.end_token), tmp_path / "folder", form
    )
    dim = 64 if form.dense is None else form.out
    initialize(recipe(dim=dim), tmp_path / "run", KeptEmbedder(folder, pooling=True))
    theirs, pairs = load_published(folder), mixed_inputs()[:-6:3]
    with load_encoder(tmp_path / "run") as encoder:
        embed = encoder.preparer.contract.tokens.first_latent
        for item, own in pairs:
            expected = theirs.preprocess([item], prompt="")["input_ids"][0].tolist()
            ids = encoder.preparer(as_input(own), "document").ids.tolist()
            assert ids == [*expected[:-1], embed], item
        inputs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for call in ("encode_query", "encode_document"):
            reference = getattr(theirs, call)(inputs, batch_size=8)
            vectors = getattr(encoder, call)(ours, batch_size=8)
            assert cosines(vectors, reference).min() >= LEAST_COSINE, call
        # the control: another instruction, other vectors
        other = encoder.encode_query(ours, batch_size=8, prompt="Another one.")
        assert cosines(other, theirs.encode_query(inputs, batch_size=8)).min() < 0.999


@pytest.mark.parametrize("dim", [16, 64, 96])
def test_a_head_of_any_size_begins_with_the_published_cosines(
    dim: int, good_folder: Path, tmp_path: Path
) -> None:
    """A shorter vector holds the first values; a longer one has the same cosines."""
    initialize(recipe(dim=dim), tmp_path / "run", KeptEmbedder(good_folder, pooling=True))
    import_embedder(good_folder, tmp_path / "checkpoint", ImportLimits(max_length=1024))
    texts = ["a red bicycle", "Straße", "x", "the sum of 7 and 8"]
    with load_encoder(tmp_path / "run") as run, load_encoder(tmp_path / "checkpoint") as published:
        vectors, whole = run.encode(texts), published.encode(texts)
    assert vectors.shape == (4, dim)
    kept = whole[:, :dim] / np.linalg.norm(whole[:, :dim], axis=1, keepdims=True)
    assert np.abs(vectors @ vectors.T - kept @ kept.T).max() < 1e-5
    assert (dim > 64) or cosines(vectors, kept).min() >= LEAST_COSINE
    # every row of the head can be trained, which one of zeros could not
    head = load_model(tmp_path / "run")[0].head
    if dim != 64:
        assert torch.linalg.norm(head.weight, dim=1).min() > 0


def test_reason_tokens_stand_before_embed(good_folder: Path, tmp_path: Path) -> None:
    """[EMBED] starts exactly as the pooled token; the reason tokens start as in any run."""
    initialize(recipe(4), tmp_path / "kept", KeptEmbedder(good_folder, pooling=True))
    initialize(recipe(4, pooling="embed"), tmp_path / "fresh", good_folder)
    model, preparer = load_model(tmp_path / "kept")
    fresh, _ = load_model(tmp_path / "fresh")
    ids = preparer(as_input("a"), "query").ids.tolist()
    first = preparer.contract.tokens.first_latent
    assert ids[-5:] == list(range(first, first + 5))
    # the prompt of the folder ends with "<|im_start|>assistant\n"
    pooled = preparer.tokenizer.encode("\n")
    assert len(pooled) == 1
    table = model.backbone.get_input_embeddings().weight
    assert torch.equal(model.embed_1D[0], table[pooled[0]])
    assert torch.equal(model.reason_KD, fresh.reason_KD)
    assert not torch.equal(model.embed_1D, fresh.embed_1D)
    assert not model.embed_1D[0].equal(model.reason_KD[0])


def test_the_prompt_alone_is_kept(good_folder: Path, tmp_path: Path) -> None:
    """With `prompt` alone, [EMBED] follows the whole prompt; the control has no instruction."""
    initialize(recipe(2, 96), tmp_path / "kept", KeptEmbedder(good_folder))
    initialize(recipe(2, 96), tmp_path / "fresh", good_folder)
    import_embedder(good_folder, tmp_path / "checkpoint")
    own = Contract.load(tmp_path / "kept/contract.json")
    published = Contract.load(tmp_path / "checkpoint/contract.json")
    fresh = Contract.load(tmp_path / "fresh/contract.json")
    assert own.prompt == published.prompt
    assert own.tokens.has_embed
    assert (own.tokens.n_reason, own.dim) == (2, 96)
    assert own.tokens.max_length == 1024
    assert own.images.max_pixels == 65_536 < published.images.max_pixels
    assert fresh.prompt != own.prompt
    assert fresh.prompt.roles == {"query": "", "document": ""}


def test_a_run_is_trained_and_resumed(data: Path, good_folder: Path, tmp_path: Path) -> None:
    """Training moves [EMBED], keeps the contract, and is resumed; a dry run names what is kept."""
    small = replace(
        recipe(2, 32),
        stages=tuple(
            replace(stage, steps=1, batch_size=4, sub_batch=4)
            for stage in find_recipe("digits-tiny").stages
        ),
    )
    options: dict[str, Any] = {"prompt": "published", "pooling": "published", "device": "cpu"}
    run = tmp_path / "run"
    lame_training.train(
        small, data, run, backbone=good_folder, steps=1, save_every=1, progress=False, **options
    )
    before = (run / "contract.json").read_text()
    lame_training.train(small, data, run, resume=True, progress=False, **options)
    assert (run / "contract.json").read_text() == before
    assert json.loads((run / "config.json").read_text())["steps"] == len(small.stages)
    model, preparer = load_model(run)
    token = preparer.tokenizer.encode("\n")[0]
    start = load_model(run)[0].backbone.get_input_embeddings().weight[token]
    assert not torch.equal(model.embed_1D[0], start)


def test_a_run_that_begins_again_must_keep_the_same(good_folder: Path, tmp_path: Path) -> None:
    """Without any saved step, the run's contract must be the one that it was started with."""
    initialize(recipe(2), tmp_path / "run", KeptEmbedder(good_folder))
    (tmp_path / "run/config.json").unlink()
    (tmp_path / "run/model.safetensors").unlink()
    from lame_training.run.initialization import initialize_run

    for backbone in (good_folder, KeptEmbedder(good_folder, pooling=True)):
        with pytest.raises(UsageError, match="was started with another prompt, `pooling` or `for"):
            initialize_run(recipe(2), None, [], tmp_path / "run", backbone, None)
    initialize_run(recipe(2), None, [], tmp_path / "run", KeptEmbedder(good_folder), None)


def test_the_command_keeps_prompt_and_pooling(
    good_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flags reach the run, and a dry run names what is kept."""
    kept = ["--backbone", str(good_folder), "--prompt", "published", "--pooling", "published"]
    assert main(["run", "digits-tiny", *kept, "--dry-run"]) == 0
    assert "kept of the published embedder: weights, prompt, pooling" in capsys.readouterr().out
    assert main(["run", "digits-tiny", *kept[:4], "--dry-run"]) == 0
    assert "weights, prompt, not its pooling" in capsys.readouterr().out
    run = ["run", "digits-tiny", *kept, "--steps", "0", "--output", str(tmp_path / "run")]
    assert main(run) == 0
    assert Contract.load(tmp_path / "run/contract.json").prompt.system_open


def test_a_form_is_kept(published_backbone: Callable[..., Path], tmp_path: Path) -> None:
    """A folder that does not describe itself has the prompt and the positions of its form."""
    folder = published_backbone("qwen2_vl")
    initialize(recipe(2), tmp_path / "run", KeptEmbedder(folder, form="gme-sequential"))
    contract = Contract.load(tmp_path / "run/contract.json")
    assert contract.tokens.positions == "sequential"
    assert contract.prompt.suffix.endswith("<|endoftext|>")
    assert contract.tokens.has_embed
    pooled = KeptEmbedder(folder, pooling=True, form="gme-sequential")
    initialize(recipe(2), tmp_path / "pooled", pooled)
    shorter = Contract.load(tmp_path / "pooled/contract.json").prompt.suffix
    assert f"{shorter}<|endoftext|>" == contract.prompt.suffix
    with pytest.raises(BundleError, match="end with the input's own text"):
        initialize(
            recipe(2), tmp_path / "raw", KeptEmbedder(folder, pooling=True, form="vlm2vec-v2")
        )


def test_an_adapter_keeps_its_prompt(good_folder: Path, tmp_path: Path) -> None:
    """The files beside an adapter are compared with those of its base, whatever the limits."""
    folder = copied(good_folder, tmp_path / "folder")
    as_adapter("tokenizer.json", "chat_template.jinja", "processor_config.json")(folder)
    initialize(recipe(2), tmp_path / "run", KeptEmbedder(folder, pooling=True))
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    write(folder, "chat_template.jinja", template.replace("assistant", "answer"))
    with pytest.raises(BundleError, match="differs from that of its base"):
        initialize(recipe(2), tmp_path / "other", KeptEmbedder(folder, pooling=True))


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": "own"}, "`prompt` is 'own': use 'recipe' or 'published'"),
    ({"pooling": ["published"]}, r"`pooling` is \['published'\]: use"),
    ({"prompt": "published"}, "`prompt` is 'published': give the folder of a published embedder"),
    ({"pooling": "published", "backbone": "x"}, "`pooling` is 'published': this needs `prompt`"),
    ({"form": "gme-mrope", "backbone": "x"}, "`form` is 'gme-mrope': it needs `prompt`"),
    ({"form": "none", "prompt": "published", "backbone": "x"}, "unknown `form` 'none': use one"),
)


@pytest.mark.parametrize(("options", "pattern"), WRONG)
def test_options_that_do_not_fit_together(options: dict[str, Any], pattern: str) -> None:
    """Each is named in one line."""
    with pytest.raises(UsageError, match=pattern):
        TrainOptions(**options)


def test_folders_and_recipes_that_cannot_keep_it(
    good_folder: Path, published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """A backbone is no embedder; a dense layer and a hidden prompt limit what is kept."""
    out = tmp_path / "out"
    for kind, refused, pattern in (
        (recipe(2), KeptEmbedder(published_backbone("qwen2_vl")), "is a backbone without modules"),
        (recipe(2), KeptEmbedder(tmp_path), "is not a published embedder, so it has no prompt"),
        (
            recipe(2, embed_attends="reason"),
            KeptEmbedder(good_folder, pooling=True),
            r"\[EMBED\] sees the reason tokens alone, .*; leave `pooling` out",
        ),
    ):
        with pytest.raises((BundleError, UsageError)) as caught:
            initialize(kind, out, refused)
        assert re.search(pattern, str(caught.value)), str(caught.value)
        assert not out.exists()
    dense = write_published(published_backbone("qwen3_vl"), tmp_path / "d", Form(dense="tanh"))
    with pytest.raises(UsageError, match=r"`dim` is 64, and .* returns 48 values"):
        initialize(recipe(2), out, KeptEmbedder(dense, pooling=True))
    folder = copied(good_folder, tmp_path / "folder")
    both(
        replaced("{{- '<|im_end|>\\n' }}", ""),
        fields("sentence_bert_config.json", processing_kwargs={}),
    )(folder)
    with pytest.raises(BundleError, match="end with the input's own text"):
        initialize(recipe(2), out, KeptEmbedder(folder, pooling=True))
