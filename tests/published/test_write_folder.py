"""Trained models as Sentence Transformers folders give the same ids and vectors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lame_runtime.contract import PromptLayout
from lame_runtime.errors import BundleError, StorageError
from lame_runtime.inputs import as_input
from lame_training.model.torch_backend import load_encoder
from lame_training.published.import_embedder import import_embedder
from lame_training.published.writing.latent_tokens import latent_names
from lame_training.published.writing.layout_template import layout_template
from lame_training.published.writing.write_folder import write_sentence_transformers
from lame_training.recipes.catalog import find_recipe
from lame_training.run.initialization import initialize
from published_folders import FAMILIES, load_published, mixed_inputs
from test_equal_sentence_transformers import cosines

LEAST_COSINE = 0.99999
VIDEOS = -6
"""Place of the first video among the inputs."""


@pytest.fixture(scope="module", params=FAMILIES)
def written(
    request: pytest.FixtureRequest, published_backbone: Any, tmp_path_factory: Any
) -> tuple[Path, Path]:
    """Returns a checkpoint with instructions, and the folder that was written from it."""
    root = tmp_path_factory.mktemp(request.param)
    recipe = dataclasses.replace(find_recipe("digits-tiny"), pooling="embed")
    initialize(recipe, root / "checkpoint", published_backbone(request.param))
    contract = root / "checkpoint/contract.json"
    raw = json.loads(contract.read_text(encoding="utf-8"))
    raw["prompt"]["roles"]["query"] = "Find it: "
    contract.write_text(json.dumps(raw), encoding="utf-8")
    write_sentence_transformers(root / "checkpoint", root / "folder")
    return root / "checkpoint", root / "folder"


def test_vectors_and_ids_are_those_of_the_checkpoint(written: tuple[Path, Path]) -> None:
    """For texts, pictures, both, several of them and videos, as queries and as documents."""
    checkpoint, folder = written
    theirs, pairs = load_published(folder), mixed_inputs()
    # LaME refuses a blank text
    pairs = [pair for pair in pairs if not isinstance(pair[0], str) or pair[0].strip()]
    inputs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    with load_encoder(checkpoint) as encoder:
        first = encoder.preparer.tokenizer.size
        latent = encoder.preparer.contract.tokens.first_latent
        for item, own in pairs:
            expected = np.array(theirs.preprocess([item])["input_ids"][0].tolist())
            ids = encoder.preparer(as_input(own)).ids
            assert (np.where(ids >= latent, ids - latent + first, ids) == expected).all(), item
        for call in ("encode", "encode_query", "encode_document"):
            some = slice(None) if call == "encode" else slice(0, VIDEOS)
            reference = getattr(theirs, call)(inputs[some], batch_size=8)
            vectors = getattr(encoder, call)(ours[some], batch_size=8)
            assert vectors.shape == reference.shape
            assert cosines(vectors, reference).min() >= LEAST_COSINE, call


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_attends": "reason"}, "hides the prompt from \\[EMBED\\]"),
        ({"pooling": "concat"}, "pools 'concat'"),
    ],
)
def test_what_no_module_computes_is_refused(
    change: dict[str, str], message: str, published_backbone: Any, tmp_path: Path
) -> None:
    """One line says what it is; nothing is written."""
    recipe = dataclasses.replace(find_recipe("digits-tiny"), **{"pooling": "embed", **change})
    initialize(recipe, tmp_path / "checkpoint", published_backbone("qwen2_vl"))
    with pytest.raises(BundleError, match=message):
        write_sentence_transformers(tmp_path / "checkpoint", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_an_imported_embedder_and_an_existing_folder_are_refused(
    good_folder: Path, tmp_path: Path
) -> None:
    """An imported embedder has a folder already, and no folder is overwritten."""
    import_embedder(good_folder, tmp_path / "checkpoint")
    with pytest.raises(BundleError, match="use the folder that it was imported from"):
        write_sentence_transformers(tmp_path / "checkpoint", tmp_path / "folder")
    with pytest.raises(StorageError, match="exists"):
        write_sentence_transformers(tmp_path / "checkpoint", good_folder)


def test_a_missing_reason_token_is_seen(published_backbone: Any, tmp_path: Path) -> None:
    """The control: without one of the reason tokens, vectors differ."""
    recipe = dataclasses.replace(find_recipe("digits-tiny"), pooling="embed")
    initialize(recipe, tmp_path / "checkpoint", published_backbone("qwen2_vl"))
    write_sentence_transformers(tmp_path / "checkpoint", tmp_path / "folder")
    template = tmp_path / "folder/chat_template.jinja"
    first, *_ = latent_names(4)
    source = template.read_text(encoding="utf-8")
    assert first in source
    template.write_text(source.replace(first, ""), encoding="utf-8")
    with load_encoder(tmp_path / "checkpoint") as encoder:
        reference = load_published(tmp_path / "folder").encode(["a red bicycle"])
        assert cosines(encoder.encode(["a red bicycle"]), reference).max() < LEAST_COSINE


def test_a_layout_with_any_text_is_printed_as_it_is() -> None:
    """Quotes, braces of Jinja, emoji and the names of the template's own variables."""
    odd = '<|im_start|>it\'s "prefix" {{ suffix }} {% if %} picture \\ 🚲\n'
    layout = PromptLayout(odd, "<|im_end|>", "\n", {"query": ""}, image_open=odd)
    turns = [{"role": "system", "content": [{"type": "text", "text": " Find "}]}]
    turns += [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = layout_template(layout, ["<|reason_a|>", "<|embed|>"])
    rendered = environment.from_string(source).render(messages=turns)
    picture = f"{odd}<|image_pad|><|vision_end|>"
    assert rendered == f"{odd}{picture}Find\na<|im_end|><|reason_a|><|embed|>"
