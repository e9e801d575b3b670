"""Imported models return the vectors that Sentence Transformers returns on the same folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime.inputs import as_input
from lame_training.model.torch_backend import load_encoder
from lame_training.published.import_embedder import ImportLimits, import_embedder
from published_folders import FAMILIES, Form, load_published, mixed_inputs, write_published

LEAST_COSINE = 0.99999
PROMPTS = {"query": "Find it.", "document": "", "clause": " Which clause? ", "bare": ""}
FORMS = {
    "last token": Form(prompts=PROMPTS),
    "no assistant turn": Form(generation=False, prompts=PROMPTS),
    "end of text": Form(end_token=True, prompts=PROMPTS),
    "mean": Form("mean", prompts=PROMPTS),
    "dense": Form(dense="identity", dense_bias=False, prompts=PROMPTS),
    "mean, dense with tanh": Form("mean", dense="tanh", prompts=PROMPTS, default="clause"),
    "not normalized": Form(normalize=False, prompts={"query": "Q", "passage": "P", "bare": ""}),
    "truncated": Form(truncate_dim=16, prompts=PROMPTS, default="query"),
    "dense, truncated": Form(dense="tanh", truncate_dim=20, prompts=PROMPTS),
}
VIDEOS = -6
"""Place of the first video among the inputs."""
CALLS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("encode", {}, {}),
    ("encode_query", {}, {}),
    ("encode_document", {}, {}),
    ("encode", {"prompt": " Find\nit: "}, {"prompt": " Find\nit: "}),
)


def cosines(first: Any, second: Any) -> Any:
    """Returns the cosine of each row of two arrays, in FP64."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / lengths


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", FORMS)
def test_vectors_and_ids_are_those_of_sentence_transformers(
    family: str, name: str, published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """In each family and form: every input, with and without prompts; ids are equal, too."""
    form = FORMS[name]
    folder = write_published(
        published_backbone(family, form.end_token), tmp_path / "published", form
    )
    limits = ImportLimits(max_length=1024)
    import_embedder(folder, tmp_path / "checkpoint", limits)
    theirs, pairs = load_published(folder), mixed_inputs()
    calls = CALLS
    if name != "last token":
        # what the forms share is compared once in a family
        pairs, calls = pairs[:VIDEOS:4], CALLS[:3]
    with load_encoder(tmp_path / "checkpoint") as encoder:
        for item, own in pairs:
            expected = theirs.preprocess([item])["input_ids"][0].tolist()
            assert encoder.preparer(as_input(own), "bare").ids.tolist() == expected, item
        for number, (call, arguments, own_arguments) in enumerate(calls):
            # videos are long, and no call treats them differently
            some = pairs[:VIDEOS] if number and name == "last token" else pairs
            inputs, ours = [pair[0] for pair in some], [pair[1] for pair in some]
            reference = getattr(theirs, call)(inputs, batch_size=8, **arguments)
            vectors = getattr(encoder, call)(ours, batch_size=8, **own_arguments)
            assert vectors.shape == reference.shape
            assert cosines(vectors, reference).min() >= LEAST_COSINE, (call, arguments)


def test_a_forgotten_step_is_seen(published_backbone: Callable[..., Path], tmp_path: Path) -> None:
    """The control: without the prompt, or with the other order of parts, vectors differ."""
    form = FORMS["last token"]
    folder = write_published(published_backbone("qwen3_vl"), tmp_path / "published", form)
    import_embedder(folder, tmp_path / "checkpoint", ImportLimits(max_length=1024))
    theirs = load_published(folder)
    item = mixed_inputs()[36][0]
    assert list(item) == ["image", "text"]
    turned = {"text": item["text"], "image": item["image"]}
    with load_encoder(tmp_path / "checkpoint") as encoder:
        reference = theirs.encode_query([item, item])
        others = np.concatenate([encoder.encode([item]), encoder.encode_query([turned])])
        assert cosines(others, reference).max() < 0.999


def test_special_tokens_in_a_text_stay_text(
    published_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """Sentence Transformers reads them as special tokens; here a text cannot forge a picture."""
    folder = write_published(published_backbone("qwen3_vl"), tmp_path / "published")
    import_embedder(folder, tmp_path / "checkpoint")
    theirs = load_published(folder)
    with load_encoder(tmp_path / "checkpoint") as encoder:
        tokens = encoder.preparer.tokenizer
        ids = encoder.preparer(as_input("a <|im_end|> b")).ids.tolist()
        end = tokens.special("<|im_end|>")
        assert ids.count(end) == 1
        assert theirs.preprocess(["a <|im_end|> b"])["input_ids"][0].tolist().count(end) == 2
        assert np.isfinite(encoder.encode("<|image_pad|>")).all()
