"""Folders that do not describe themselves give the vectors of the scripts that they came with.

Each script is written down here once more, in a few lines around transformers' model: the prompt as
one string, the kind of positions, the pooled token.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_edits import as_adapter
from lame_runtime.errors import BundleError, UsageError
from lame_runtime.inputs import as_input
from lame_training.model.backbones import load_backbone
from lame_training.model.torch_backend import load_encoder
from lame_training.published.folder_kind import folder_kind
from lame_training.published.forms.published_forms import FORMS
from lame_training.published.import_embedder import ImportLimits, import_embedder
from PIL import Image
from published_folders import SHAPES, TEXTS, picture

LEAST_COSINE = 0.99999
PIXELS = 28**2 * 16
LIMITS = ImportLimits(max_length=1024, max_pixels=PIXELS)
DISC = "<disc_emb>"
QUERY = "Find it"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class Script:
    """Holds what a model's own script does with the parts of an input.

    Attributes:
        family: the backbone.
        prompt: returns the prompt of texts, number of pictures, and instruction.
        least: smallest area of a picture.
        sequential: whether the model gets no M-RoPE positions.
        pooled: the token whose last occurrence is pooled; None for the last token.
    """

    family: str
    prompt: Callable[[str, int, str | None], str]
    least: int
    sequential: bool = False
    pooled: str | None = None


def qwen3(text: str, pictures: int, instruction: str | None) -> str:
    """Returns the prompt of Qwen3VLEmbedder."""
    system = (instruction or "Represent the user's input.").strip()
    system = system if system[-1] in ".:?" else f"{system}."
    user = PICTURE * pictures + text
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n<|endoftext|>"


def gme(text: str, pictures: int, instruction: str | None) -> str:
    """Returns the prompt of GmeQwen2VL."""
    system = "You are a helpful assistant." if instruction is None else instruction
    user = PICTURE * pictures + text
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n<|endoftext|>"


def vlm2vec(text: str, pictures: int, instruction: str | None) -> str:
    """Returns the prompt of VLM2Vec-V2."""
    return "<|image_pad|> " * pictures + " ".join(part for part in (instruction, text) if part)


def ume(text: str, pictures: int, instruction: str | None) -> str:
    """Returns the prompt of UME-R1 for a discriminative vector, up to its end."""
    user = PICTURE * pictures + "\n".join(part for part in (instruction, text) if part)
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    turns = f"{system}<|im_start|>user\n{user}\n{DISC}\n<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"


SCRIPTS = {
    "qwen3-vl-embedding": Script("qwen3_vl", qwen3, 4 * 32**2),
    "gme-mrope": Script("qwen2_vl", gme, 256 * 28**2),
    "gme-sequential": Script("qwen2_vl", gme, 256 * 28**2, sequential=True),
    "vlm2vec-v2": Script("qwen2_vl", vlm2vec, 4 * 28**2, sequential=True),
    "ume-r1": Script("qwen2_vl", ume, 768, pooled=DISC),
}


@pytest.fixture
def folder(request: pytest.FixtureRequest, published_backbone: Any, tmp_path: Path) -> Path:
    """Returns a folder of the form that the test is about."""
    name = request.node.callspec.params["name"]
    made = tmp_path / "published"
    shutil.copytree(published_backbone(SCRIPTS[name].family, FORMS[name].added != ""), made)
    if name == "ume-r1":
        add_pooled_token(made)
    return made


def add_pooled_token(folder: Path) -> None:
    """Gives a tokenizer the token of UME-R1, as an ordinary one, in the place of another."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    for entry in raw["added_tokens"]:
        if entry["content"] == "<|vision_pad|>":
            raw["model"]["vocab"][DISC] = raw["model"]["vocab"].pop("<|vision_pad|>")
            entry.update(content=DISC, special=False)
    path.write_text(json.dumps(raw), encoding="utf-8")


def channels(folder: Path) -> dict[str, Any]:
    """Returns mean and standard deviation of the channels, which are those of the folder."""
    raw = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    return {key: raw["image_processor"][key] for key in ("image_mean", "image_std")}


class Pipeline:
    """Runs a script with transformers."""

    def __init__(self, folder: Path, script: Script, most: int) -> None:
        from transformers import PreTrainedTokenizerFast
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil,
        )

        self.script = script
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.model: Any = load_backbone(folder, torch.float32).eval()
        vision = self.model.config.vision_config
        self.merge = vision.spatial_merge_size**2
        self.process = Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            temporal_patch_size=vision.temporal_patch_size,
            merge_size=vision.spatial_merge_size,
            size={"shortest_edge": min(script.least, most), "longest_edge": most},
            **channels(folder),
        )

    def ids(self, text: str, grids: list[Any], instruction: str | None) -> list[int]:
        """Returns the ids of a prompt."""
        prompt = self.script.prompt(text, len(grids), instruction)
        for grid in grids:
            count = int(np.prod(grid)) // self.merge
            prompt = prompt.replace("<|image_pad|>", "\0" * count, 1)
        prompt = prompt.replace("\0", "<|image_pad|>")
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def __call__(
        self, text: str, pictures: list[Image.Image], instruction: str | None
    ) -> tuple[list[int], Any]:
        """Returns the ids up to the pooled token, and the vector."""
        options: dict[str, Any] = {}
        grids: list[Any] = []
        if pictures:
            processed = self.process(pictures, return_tensors="pt")
            grids = processed["image_grid_thw"].tolist()
            options = {"pixel_values": processed["pixel_values"]}
            options["image_grid_thw"] = processed["image_grid_thw"]
        ids = self.ids(text, grids, instruction)
        pooled = len(ids) - 1
        if self.script.pooled is not None:
            token = self.tokenizer.convert_tokens_to_ids(self.script.pooled)
            pooled = max(place for place, number in enumerate(ids) if number == token)
        ids_1l = torch.tensor([ids])
        if self.script.sequential:
            options["position_ids"] = torch.arange(len(ids)).expand(3, 1, -1)
        kinds = (ids_1l == self.model.config.image_token_id).int()
        with torch.no_grad():
            states = self.model(
                input_ids=ids_1l,
                attention_mask=torch.ones_like(ids_1l),
                mm_token_type_ids=kinds,
                **options,
            ).last_hidden_state[0]
        return ids[: pooled + 1], states[pooled].numpy().astype(np.float64)


def inputs() -> list[tuple[str, list[Image.Image]]]:
    """Returns texts and pictures of inputs."""
    pictures = [picture(*shape, seed) for seed, shape in enumerate(SHAPES)]
    listed: list[tuple[str, list[Image.Image]]] = [(text, []) for text in TEXTS]
    listed += [("", [image]) for image in pictures]
    listed += [(text, [image]) for text, image in zip(TEXTS, pictures, strict=False)]
    return [*listed, ("three of them", pictures[2:5]), ("", pictures[5:7])]


def as_dict(text: str, pictures: list[Image.Image], instruction: str | None) -> dict[str, Any]:
    """Returns an input with the text's key first, which no script looks at."""
    item: dict[str, Any] = {"text": text} if text else {}
    item |= {"image": pictures} if pictures else {}
    return item if instruction is None else {**item, "instruction": instruction}


def cosine(first: Any, second: Any) -> float:
    """Returns the cosine of two vectors, in FP64."""
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize("instruction", [None, QUERY])
@pytest.mark.parametrize("name", SCRIPTS)
def test_ids_and_vectors_are_those_of_the_script(
    name: str, instruction: str | None, folder: Path, tmp_path: Path
) -> None:
    """For texts in many scripts, pictures of many shapes, and both."""
    contract = import_embedder(folder, tmp_path / "checkpoint", LIMITS, name)
    theirs = Pipeline(folder, SCRIPTS[name], PIXELS)
    assert contract.images.max_pixels == PIXELS
    with load_encoder(tmp_path / "checkpoint") as encoder:
        items = [as_dict(text, pictures, instruction) for text, pictures in inputs()]
        vectors = encoder.encode(items, batch_size=8)
        for item, vector, (text, pictures) in zip(items, vectors, inputs(), strict=True):
            ids, expected = theirs(text, pictures, instruction)
            assert encoder.preparer(as_input(item)).ids.tolist() == ids, item
            assert cosine(vector.astype(np.float64), expected) >= LEAST_COSINE, item


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gme-sequential", {"sequential": False}),
        ("gme-mrope", {"sequential": True}),
        ("vlm2vec-v2", {"sequential": False}),
        ("ume-r1", {"pooled": None}),
        ("qwen3-vl-embedding", {"pooled": "<|im_end|>"}),
    ],
)
def test_another_position_or_pooled_token_is_seen(
    name: str, change: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    """The control: a script that differs in one point gives another vector of a picture."""
    import_embedder(folder, tmp_path / "checkpoint", LIMITS, name)
    other = Pipeline(folder, replace(SCRIPTS[name], **change), PIXELS)
    image = picture(112, 84, 1)
    with load_encoder(tmp_path / "checkpoint") as encoder:
        vector = encoder.encode([{"image": image, "text": "a"}])[0].astype(np.float64)
    assert cosine(vector, other("a", [image], None)[1]) < LEAST_COSINE


@pytest.mark.parametrize("name", ["ume-r1"])
def test_a_cut_text_keeps_what_closes_it(name: str, folder: Path, tmp_path: Path) -> None:
    """Truncation takes words of the text, and neither the line break nor the pooled token."""
    limits = ImportLimits(max_length=64, max_pixels=PIXELS)
    import_embedder(folder, tmp_path / "checkpoint", limits, name)
    with load_encoder(tmp_path / "checkpoint") as encoder:
        tokens, long = encoder.preparer.tokenizer, as_input("word " * 200)
        ids = encoder.preparer(long, truncate=True).ids.tolist()
        assert len(ids) == 64
        assert ids[-2:] == [*tokens.encode("\n"), tokens.special(DISC)]
        # a user cannot type the pooled token
        assert encoder.preparer(as_input(f"a {DISC} b")).ids.tolist().count(ids[-1]) == 1


@pytest.mark.parametrize("name", ["vlm2vec-v2"])
def test_an_adapter_with_the_config_of_its_base(name: str, folder: Path, tmp_path: Path) -> None:
    """VLM2Vec-V2 is published as an adapter beside a config, which is no model of its own."""
    import_embedder(folder, tmp_path / "whole", LIMITS, name)
    as_adapter("config.json", "tokenizer.json")(folder)
    import_embedder(folder, tmp_path / "adapted", LIMITS, name)
    with load_encoder(tmp_path / "whole") as whole, load_encoder(tmp_path / "adapted") as adapted:
        assert np.array_equal(whole.encode("a red bicycle"), adapted.encode("a red bicycle"))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gme", "qwen2_vl", "the `form` gme is ambiguous: .*use gme-sequential"),
        ("e5-v", "qwen2_vl", "unknown `form` 'e5-v': use one of qwen3-vl-embedding, gme-mrope"),
        ("qwen3-vl-embedding", "qwen2_vl", "is a qwen2_vl model; the form .* is of qwen3_vl"),
        (
            "qwen3-vl-embedding",
            "qwen3_vl",
            r"adds nothing to a text, but the form .* needs <\|endoftext\|>",
        ),
        ("ume-r1", "qwen2_vl", "has no token <disc_emb>; name another form"),
    ],
)
def test_what_is_of_another_form_is_refused(
    name: str, kind: str, message: str, published_backbone: Any, tmp_path: Path
) -> None:
    """One line says which form it is not; nothing is written."""
    with pytest.raises((BundleError, UsageError), match=message):
        import_embedder(published_backbone(kind), tmp_path / "checkpoint", LIMITS, name)
    assert not (tmp_path / "checkpoint").exists()


def test_a_folder_without_a_form_is_told_to_name_one(
    published_backbone: Any, tmp_path: Path
) -> None:
    """Weights alone do not say how vectors are made; a checkpoint needs no form."""
    folder = published_backbone("qwen2_vl")
    with pytest.raises(BundleError, match="name its form with `--form`"):
        folder_kind(folder)
    assert folder_kind(folder, "vlm2vec-v2") == "form"
    import_embedder(folder, tmp_path / "checkpoint", LIMITS, "vlm2vec-v2")
    with pytest.raises(UsageError, match="is a checkpoint; leave it out"):
        folder_kind(tmp_path / "checkpoint", "vlm2vec-v2")
