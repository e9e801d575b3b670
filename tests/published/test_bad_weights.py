"""Weights and tokenizers that cannot be imported: one line names each fault."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from folder_edits import (
    SEQUENCE,
    TOKENIZER,
    WEIGHTS,
    Edit,
    blocked,
    both,
    changed_weights,
    dense,
    fields,
    gone,
    processed,
    refused_case,
    sharded,
    size,
    special,
    text,
    tokenizer,
    truncated,
)

GOOD = {"linear.weight": torch.ones(24, 64)}
GELU = "torch.nn.modules.activation.GELU"
PICKLED = "pickled weights, which are never loaded; save the model as safetensors"


def pickled(name: str, *folders: str) -> Edit:
    """Returns the edit that leaves pickled weights alone in a folder."""

    def make(folder: Path) -> None:
        target = folder.joinpath(*folders)
        (target / WEIGHTS).unlink(missing_ok=True)
        # not a pickle: whoever opens it fails in another way
        (target / name).write_bytes(b"\x80")

    return make


FAULTS: dict[str, tuple[Edit, str]] = {
    "dense is gone": (both(dense({}), gone("2_Dense")), r"2_Dense.config\.json: is missing"),
    "GELU": (dense(GOOD, activation_function=GELU), "activation_function is '.*GELU'; supported"),
    "activation of its own": (dense(GOOD, activation_function="os.system"), "is 'os.system'; supp"),
    "residual": (dense(GOOD, use_residual=True), "use_residual is True; supported is False"),
    "input of tokens": (dense(GOOD, module_input_name="token_embeddings"), "module_input_name is"),
    "other dense weights": (
        dense({"linear.weight": torch.ones(24, 48)}),
        r"2_Dense: its weights are .*\(24, 48\).*; config.json says .*\(24, 64\)",
    ),
    "dense reads another width": (dense(GOOD, in_features=48), "in_features is 48; supported is"),
    "out_features": (dense(GOOD, out_features="24"), "out_features is '24'; expected 1 to 65,536"),
    "dense without its bias": (dense(GOOD, bias=True), "its weights are .*; config.json says"),
    "pickled dense": (both(dense(GOOD), pickled("pytorch_model.bin", "2_Dense")), PICKLED),
    "NaN in dense": (dense({"linear.weight": torch.full((24, 64), torch.nan)}), "holds NaN or an"),
    "dense beyond FP32": (
        dense({"linear.weight": torch.full((24, 64), 1e300, dtype=torch.float64)}),
        "linear.weight holds NaN or an infinity",
    ),
    "dense is a number": (dense(GOOD, bias=[1]), r"bias is \[1\]; supported"),
    "pickled model": (pickled("pytorch_model.bin"), PICKLED),
    "no weights": (gone(WEIGHTS), "holds no weights; save the model as safetensors"),
    "half a download": (truncated, r"model\.safetensors: cannot be read .*; copy"),
    "a shard is missing": (sharded(missing=True), r"00002-of-00002.*cannot be read"),
    "NaN": (
        changed_weights(lambda tensors: next(iter(tensors.values())).fill_(torch.nan)),
        "holds NaN or an infinity; copy",
    ),
    "a weight is missing": (changed_weights(lambda tensors: tensors.popitem()), "lacks the weight"),
    "adapter beside a model": (text("adapter_config.json", {}), "holds a model and an adapter"),
    "adapter without base": (
        both(gone("config.json", WEIGHTS), text("adapter_config.json", {"r": 8})),
        "names the base None, which is no local folder",
    ),
    "weights are a pipe": (blocked(WEIGHTS, os.mkfifo), r"model\.safetensors: .*is a pipe"),
    "tokenizer is a pipe": (blocked(TOKENIZER, os.mkfifo), r"tokenizer\.json: .*is a pipe"),
    "tokenizer is a folder": (blocked(TOKENIZER, os.mkdir), r"tokenizer\.json: .*is a folder"),
    "tokenizer is gone": (gone(TOKENIZER), r"tokenizer\.json: cannot be read \(No such file"),
    "tokenizer leads out": (
        both(gone(TOKENIZER), lambda folder: (folder / TOKENIZER).symlink_to("/etc/passwd")),
        r"tokenizer\.json: is a link that leads outside",
    ),
    "other image token": (fields("config.json", image_token_id=1), "belong to two models"),
    "more tokens than rows": (
        tokenizer(
            lambda raw: raw["added_tokens"].append(
                {"id": size(raw), "content": "<|more|>", "special": True}
            )
        ),
        r"tokenizer\.json has \d+ tokens, the embedding table only \d+ rows; they belong",
    ),
    "text is dropped": (processed([special("<|endoftext|>")]), "does not keep the text"),
    "plain token": (processed([SEQUENCE, special("a")], "a", 65), "post-processor adds 'a'; supp"),
    "other number": (
        processed([SEQUENCE, special("<|endoftext|>")], number=7),
        "post-processor adds '.*'; supported",
    ),
    "slow expression": (
        tokenizer(
            lambda raw: raw.update(
                pre_tokenizer={
                    "type": "Split",
                    "pattern": {"Regex": "(a+)+$"},
                    "behavior": "Isolated",
                    "invert": False,
                }
            )
        ),
        "not one of the known regular expressions",
    ),
    "adds a token": (
        fields("tokenizer_config.json", add_eos_token=True),
        "sets add_eos_token; let",
    ),
    "config of the tokenizer": (text("tokenizer_config.json", []), "holds a list, not a JSON obj"),
    **{
        f"model_max_length {value}": (
            fields("tokenizer_config.json", model_max_length=value),
            rf"tokenizer_config\.json: model_max_length is {value}; expected",
        )
        for value in (-5, 0.5)
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_in_one_line(name: str, good_folder: Path, tmp_path: Path) -> None:
    """Faults of files: weights, tokenizer, template."""
    refused_case(FAULTS[name], good_folder, tmp_path)
