"""Folders that are written in another way, and give the vectors of the same model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_edits import (
    KEPT,
    MODULES,
    OPTIONS,
    POOLING,
    SEQUENCE,
    SETTINGS,
    TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    Edit,
    as_adapter,
    both,
    changed_weights,
    copied,
    fields,
    gone,
    module,
    order,
    processed,
    read,
    refused,
    replaced,
    sharded,
    size,
    special,
    text,
    write,
)
from lame_runtime.contract import Contract
from lame_training.model.torch_backend import load_encoder
from lame_training.published.import_embedder import import_embedder
from published_folders import picture
from safetensors.torch import load_file

INPUTS = ["a red bicycle", picture(64, 96, 1), {"text": " a ", "image": picture(90, 60, 2)}]
PROCESSOR = (TOKENIZER, "tokenizer_config.json", "processor_config.json", TEMPLATE)


def vectors(folder: Path, checkpoint: Path) -> Any:
    """Returns the vectors of a folder, as queries, documents, and without a role."""
    import_embedder(folder, checkpoint)
    with load_encoder(checkpoint) as encoder:
        calls = (encoder.encode, encoder.encode_query, encoder.encode_document)
        return np.concatenate([call(INPUTS) for call in calls]).astype(np.float64)


@dataclass(frozen=True)
class Imported:
    """Holds all that decides about the vectors of a checkpoint."""

    contract: Contract
    switches: dict[str, Any]
    tokenizer: bytes
    weights: dict[str, torch.Tensor]

    @staticmethod
    def of(folder: Path, checkpoint: Path) -> Imported:
        """Imports a folder."""
        contract = import_embedder(folder, checkpoint)
        config = read(checkpoint, "config.json")
        switches = {key: config[key] for key in ("n_reason", "dim", "pooling", "head")}
        tokenizer = (checkpoint / TOKENIZER).read_bytes()
        return Imported(contract, switches, tokenizer, load_file(checkpoint / WEIGHTS))

    def assert_same(self, other: Imported) -> None:
        """Checks that nothing differs, to the last bit."""
        assert self.contract == other.contract
        assert self.switches == other.switches
        assert self.tokenizer == other.tokenizer
        assert self.weights.keys() == other.weights.keys()
        assert all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())


@pytest.fixture(scope="session")
def good_import(good_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Returns what the good folder is imported to."""
    return Imported.of(good_folder, tmp_path_factory.mktemp("good") / "checkpoint")


@pytest.fixture(scope="session")
def good_vectors(good_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns the vectors of the good folder."""
    return vectors(good_folder, tmp_path_factory.mktemp("good") / "checkpoint")


def in_subfolder(folder: Path) -> None:
    """Moves the backbone into a folder of its own."""
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.name not in (*KEPT, "0_Transformer"):
            path.rename(folder / "0_Transformer" / path.name)
    module(0, path="0_Transformer")(folder)


def in_tokenizer_config(folder: Path) -> None:
    """Moves the template into tokenizer_config.json."""
    source = (folder / TEMPLATE).read_text(encoding="utf-8")
    fields("tokenizer_config.json", chat_template=source)(folder)
    gone(TEMPLATE)(folder)


def rounded(dtype: torch.dtype) -> Edit:
    """Returns the edit that stores the weights in another type."""
    return changed_weights(
        lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()})
    )


def ended(folder: Path) -> None:
    """Lets the post-processor add what the template prints no longer."""
    raw = read(folder, TOKENIZER)
    vocab = {entry["content"]: entry["id"] for entry in raw["added_tokens"]}
    vocab |= raw["model"]["vocab"]
    token = "<|endoftext|>"
    assert vocab[token] < size(raw)
    processed([SEQUENCE, special(token)], token, vocab[token])(folder)


OLD_MODULES = order("Transformer", "Pooling", "Normalize")
SAME: dict[str, Edit] = {
    "subfolder": in_subfolder,
    "Normalize without a folder": gone("2_Normalize"),
    "old classes": OLD_MODULES,
    "old switches": both(
        OLD_MODULES,
        text(
            POOLING,
            {
                "word_embedding_dimension": 64,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": False,
                "pooling_mode_lasttoken": True,
                "include_prompt": True,
            },
        ),
    ),
    "pooling in a list": fields(POOLING, pooling_mode=["lasttoken"]),
    "shards": sharded(),
    "template in the tokenizer's config": in_tokenizer_config,
    "template in a list": both(
        in_tokenizer_config,
        lambda folder: fields(
            "tokenizer_config.json",
            chat_template=[
                {
                    "name": "default",
                    "template": read(folder, "tokenizer_config.json")["chat_template"],
                }
            ],
        )(folder),
    ),
    "adapter": as_adapter(),
    "adapter with a processor": as_adapter(*PROCESSOR),
    "no limit": fields("tokenizer_config.json", model_max_length=10**30),
    "no limit, as a float": fields("tokenizer_config.json", model_max_length=1e30),
    "old names of options": fields(
        OPTIONS, model_args={"torch_dtype": "float32"}, unpad_inputs=None
    ),
    "options that are off": fields(
        OPTIONS, do_lower_case=False, query_length=None, config_kwargs=None, max_seq_length=None
    ),
    "ignored settings": fields(OPTIONS, model_kwargs={"trust_remote_code": True}),
    "byte order mark": lambda folder: write(
        folder, MODULES, "\ufeff" + (folder / MODULES).read_text(encoding="utf-8")
    ),
    "token by its name": both(
        replaced("'<|im_end|>\\n'", "eos_token + '\\n'"),
        fields("tokenizer_config.json", eos_token={"content": "<|im_end|>", "lstrip": False}),
    ),
    "similarity of unit vectors": fields(SETTINGS, similarity_fn_name="dot"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_model_in_another_form(
    name: str, good_folder: Path, good_import: Imported, tmp_path: Path
) -> None:
    """Contract, tokenizer and weights are those of the good folder."""
    folder = copied(good_folder, tmp_path / "folder")
    SAME[name](folder)
    Imported.of(folder, tmp_path / "checkpoint").assert_same(good_import)


def test_another_model_is_told_apart(
    good_folder: Path, good_import: Imported, tmp_path: Path
) -> None:
    """The control: another pooling, another prompt, one weight."""
    others: dict[str, Edit] = {
        "pooling": fields(POOLING, pooling_mode="mean"),
        "prompt": fields(SETTINGS, prompts={"query": "Find it."}),
        "weight": changed_weights(lambda tensors: next(iter(tensors.values())).add_(1e-3)),
    }
    for name, edit in others.items():
        folder = copied(good_folder, tmp_path / name)
        edit(folder)
        with pytest.raises(AssertionError):
            Imported.of(folder, tmp_path / f"checkpoint {name}").assert_same(good_import)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_type(
    dtype: torch.dtype, good_folder: Path, good_vectors: Any, tmp_path: Path
) -> None:
    """Vectors differ by the rounding of the weights alone."""
    folder = copied(good_folder, tmp_path / "folder")
    rounded(dtype)(folder)
    ours = vectors(folder, tmp_path / "checkpoint")
    assert (ours * good_vectors).sum(1).min() > 0.99
    assert np.abs(ours - good_vectors).max() > 1e-6


def test_without_settings_there_are_no_prompts(good_folder: Path, tmp_path: Path) -> None:
    """A folder without config_sentence_transformers.json, and one of old names of prompts.

    Sentence Transformers 6.2 never takes the prompt called passage by itself.
    """
    for name, edit in {
        "none": gone(SETTINGS),
        "passage": text(SETTINGS, {"prompts": {"passage": "P"}, "default_prompt_name": "document"}),
    }.items():
        folder = copied(good_folder, tmp_path / name)
        edit(folder)
        contract = import_embedder(folder, tmp_path / f"checkpoint {name}")
        assert contract.prompt.roles["query"] == contract.prompt.roles["document"] == ""


def test_tokens_that_the_tokenizer_adds(
    good_folder: Path, good_vectors: Any, tmp_path: Path
) -> None:
    """They are part of the prompt, unless the prompt begins with the token that begins texts."""
    folder = copied(good_folder, tmp_path / "folder")
    ended(folder)
    contract = import_embedder(folder, tmp_path / "checkpoint")
    assert contract.prompt.suffix.endswith("assistant\n<|endoftext|>")
    # transformers then adds no tokens
    fields("tokenizer_config.json", bos_token="<|im_start|>")(folder)
    assert np.abs(vectors(folder, tmp_path / "second") - good_vectors).max() < 1e-6


def test_the_lowest_limit_counts(good_folder: Path, tmp_path: Path) -> None:
    """Limits of the module, the tokenizer and of calls, in the order of Sentence Transformers."""
    limits: dict[int, Edit] = {
        300: fields(OPTIONS, max_seq_length=300),
        200: fields(OPTIONS, max_seq_length=300, processor_kwargs={"model_max_length": 200}),
        400: fields("tokenizer_config.json", model_max_length=400.0),
        100: fields(OPTIONS, processing_kwargs={"text": {"max_length": 100}}),
        8192: fields(OPTIONS, max_seq_length=1 << 40),
    }
    for longest, edit in limits.items():
        folder = copied(good_folder, tmp_path / str(longest))
        edit(folder)
        contract = import_embedder(folder, tmp_path / f"checkpoint {longest}")
        assert contract.tokens.max_length == longest


@pytest.mark.parametrize("name", [TEMPLATE, "processor_config.json", TOKENIZER])
def test_files_beside_an_adapter_must_be_those_of_its_base(
    name: str, good_folder: Path, tmp_path: Path
) -> None:
    """Sentence Transformers reads those beside the adapter."""
    folder = copied(good_folder, tmp_path / "folder")
    as_adapter(*PROCESSOR)(folder)
    changes: dict[str, Edit] = {
        TEMPLATE: replaced("'<|im_start|>assistant\\n'", "'<|im_start|>user\\n'"),
        "processor_config.json": lambda place: write(
            place,
            name,
            json.loads((place / name).read_text().replace("65536", "32768")),
        ),
        TOKENIZER: lambda place: write(
            place, name, {**read(place, name), "normalizer": {"type": "NFKC"}}
        ),
    }
    changes[name](folder)
    refused(folder, "differs from that of its base .*; merge the adapter")
    assert (tmp_path / "base" / WEIGHTS).exists()
