"""Folders that cannot be imported: each has one fault, and is refused in one line that names it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from folder_edits import (
    MODULES,
    OPTIONS,
    PACKAGE,
    POOLING,
    SETTINGS,
    Edit,
    blocked,
    both,
    fields,
    gone,
    module,
    order,
    refused_case,
    text,
    without,
)

ENTRY = {"idx": 0, "name": "0", "path": "", "type": f"{PACKAGE}.models.Transformer"}
MESSAGE = {"method": "forward", "method_output_name": "last_hidden_state", "format": "structured"}
NOT_SUPPORTED = "which is not supported"


def chat(**values: object) -> Edit:
    """Returns the edit that sets variables of the chat template."""
    return fields(OPTIONS, processing_kwargs={"chat_template": values})


def linked(name: str) -> Edit:
    """Returns the edit that makes a module's folder a link that leads out."""
    return both(gone(name), lambda folder: (folder / name).symlink_to("/usr", True))


MODULE_FAULTS: dict[str, tuple[Edit, str]] = {
    "of a text model": (fields("config.json", model_type="bert"), "model_type is 'bert'; supp"),
    "without config": (gone("config.json"), r"config\.json: is missing; copy"),
    "code of its own": (module(0, type="custom_st.Transformer"), "is custom code, .* never run"),
    "type is null": (module(1, type=None), r"modules\.json: type of a module is None"),
    "WeightedLayerPooling": (
        order("Transformer", "WeightedLayerPooling", "Pooling"),
        "Transformer, WeightedLayerPooling, Pooling; supported: Transformer, Pooling",
    ),
    "Router": (order("Router", "Pooling", "Normalize"), r"router_config\.json: is missing; copy"),
    "LayerNorm": (order("Transformer", "Pooling", "LayerNorm"), "Pooling, LayerNorm; supp"),
    "turned order": (order("Transformer", "Normalize", "Pooling"), "Normalize, Pooling; supp"),
    "no pooling": (order("Transformer", "Normalize"), "are Transformer, Normalize; supported"),
    "two of one kind": (order("Transformer", "Pooling", "Pooling"), "Pooling, Pooling; supp"),
    "one name twice": (module(1, name="0"), "two modules have the same name"),
    "no list": (text(MODULES, {"0": ENTRY}), "is not a list of modules; copy"),
    "list of texts": (text(MODULES, ["Transformer"]), "is not a list of modules"),
    "empty list": (text(MODULES, []), "its modules are none; supported: Transformer"),
    "no JSON": (text(MODULES, "[{"), r"modules\.json: cannot be read \(.*\); copy"),
    "deep JSON": (text(MODULES, "[" * 100_000), r"modules\.json: cannot be read \(nested too dee"),
    "absolute path": (module(1, path="/tmp/1_Pooling"), "names the folder '/tmp/1_Pooling'"),
    "path leads out": (module(1, path="../1_Pooling"), r"names the folder '\.\./1_Pooling'"),
    "path is a number": (module(1, path=1), "names the folder 1; copy"),
    "null character": (module(1, path="1\0"), r"names the folder '1\\+x00'; copy"),
    "half a surrogate": (module(1, path="1\ud800"), r"names the folder '1\\+ud800'; copy"),
    "long path": (module(1, path="x" * 5_000), "names the folder 'xxx"),
    "link leads out": (linked("1_Pooling"), "1_Pooling: is a link that leads outside"),
    "pooling is gone": (gone("1_Pooling"), r"1_Pooling.config\.json: is missing; copy"),
    "modules.json is a folder": (blocked(MODULES, os.mkdir), r"modules\.json: .*is a folder"),
    "modules.json is a pipe": (blocked(MODULES, os.mkfifo), r"modules\.json: .*is a pipe"),
    "normalizes tokens": (
        text("2_Normalize/config.json", {"module_input_name": "token_embeddings"}),
        "module_input_name is 'token_embeddings'; supported is sentence_embedding",
    ),
}
POOLING_FAULTS: dict[str, tuple[Edit, str]] = {
    **{
        mode: (fields(POOLING, pooling_mode=mode), f"pooling_mode is '{mode}'; supported are last")
        for mode in ("cls", "max", "weightedmean", "mean_sqrt_len_tokens", "LASTTOKEN", "")
    },
    "two poolings": (fields(POOLING, pooling_mode=["mean", "max"]), r"is \['mean', 'max'\]; supp"),
    "pooling is a number": (fields(POOLING, pooling_mode=1), "pooling_mode is 1; supported"),
    "old switches of two": (
        text(POOLING, {"pooling_mode_lasttoken": 1, "pooling_mode_mean_tokens": True}),
        r"is \['mean', 'lasttoken'\]; supported",
    ),
    "old switch": (text(POOLING, {"pooling_mode_cls_token": True}), "pooling_mode is 'cls'; supp"),
    "another width": (fields(POOLING, embedding_dimension=96), "96 values, the backbone has 64"),
    "old name of another width": (
        text(POOLING, {"word_embedding_dimension": 96, "pooling_mode": "mean"}),
        "96 values, the backbone has 64; they belong to two models",
    ),
    "pooling is no object": (text(POOLING, [1]), "holds a list, not a JSON object"),
}
SETTING_FAULTS: dict[str, tuple[Edit, str]] = {
    "default of no prompt": (
        fields(SETTINGS, default_prompt_name="passage"),
        "default_prompt_name is 'passage', which is none of its prompts; correct",
    ),
    "default is a list": (fields(SETTINGS, default_prompt_name=["query"]), r"_name is \['query'\]"),
    "prompts in a list": (fields(SETTINGS, prompts=["query"]), "prompts is .*; expected texts"),
    "empty list of prompts": (fields(SETTINGS, prompts=[]), r"prompts is \[\]; expected texts"),
    "prompt is a number": (fields(SETTINGS, prompts={"query": 1}), "expected texts by name"),
    "long name of a prompt": (fields(SETTINGS, prompts={"q" * 9_000: ""}), "prompt.roles"),
    "sparse encoder": (fields(SETTINGS, model_type="SparseEncoder"), "type is 'SparseEncoder'"),
    **{
        f"truncate_dim {value}": (
            fields(SETTINGS, truncate_dim=value),
            rf"truncate_dim is {value!r}; expected a whole number above 0",
        )
        for value in (0, -1, "16", True, 1.5)
    },
    "truncate_dim too large": (fields(SETTINGS, truncate_dim=65), "is 65; its vectors have 64"),
    "dot without Normalize": (
        both(order("Transformer", "Pooling"), fields(SETTINGS, similarity_fn_name="dot")),
        "not normalized by 'dot'",
    ),
    "dot of truncated vectors": (
        fields(SETTINGS, similarity_fn_name="dot", truncate_dim=16),
        "not normalized by 'dot'",
    ),
    "settings are a pipe": (blocked(SETTINGS, os.mkfifo), "is a pipe"),
}
OPTION_FAULTS: dict[str, tuple[Edit, str]] = {
    "texts alone": (
        fields(OPTIONS, modality_config={"text": MESSAGE}),
        "has no 'message', so it takes texts alone",
    ),
    "saved before 5.4": (text(OPTIONS, {"max_seq_length": 512}), "no 'message', so it takes texts"),
    "modalities in a list": (fields(OPTIONS, modality_config=["message"]), "has no 'message'"),
    "flat messages": (
        fields(OPTIONS, modality_config={"message": {**MESSAGE, "format": "flat"}}),
        "the format of messages is 'flat'; supported is 'structured'",
    ),
    "other output": (fields(OPTIONS, module_output_name="x"), "module_output_name is 'x'"),
    "reranker": (fields(OPTIONS, transformer_task="any-to-any"), "task is 'any-to-any'"),
    "lower case": (fields(OPTIONS, do_lower_case=True), f"do_lower_case is True, {NOT_SUPPORTED}"),
    "other tokenizer": (fields(OPTIONS, tokenizer_name_or_path="x"), f"'x', {NOT_SUPPORTED}"),
    "query expansion": (fields(OPTIONS, query_expansion={"length": 8}), "query_expansion is"),
    "unknown option": (fields(OPTIONS, new=1), f"sets new, {NOT_SUPPORTED}; remove it"),
    "processor options": (fields(OPTIONS, processor_kwargs=["x"]), "not an object; copy"),
    "old processor options": (
        fields(OPTIONS, tokenizer_args={"add_eos_token": True}),
        f"processor_kwargs sets add_eos_token, {NOT_SUPPORTED}",
    ),
    "pixels of a call": (
        fields(OPTIONS, processing_kwargs={"image": {"max_pixels": 9_999}}),
        rf"processing_kwargs\.image sets max_pixels, {NOT_SUPPORTED}",
    ),
    "processing is a text": (fields(OPTIONS, processing_kwargs="x"), "'x', not an object"),
    "part of processing": (fields(OPTIONS, processing_kwargs={"text": 1}), "text is 1, not an obj"),
    "template variables": (
        fields(OPTIONS, processing_kwargs={"chat_template": [1]}),
        r"chat_template is \[1\], not an object",
    ),
    "other template": (chat(chat_template="x"), f"sets chat_template, {NOT_SUPPORTED}"),
    "continued message": (chat(continue_final_message=True), "sets continue_final_message"),
    "setting of the processor": (chat(fps=1), "sets fps, which the chat template does not have"),
    **{
        f"max_seq_length {value}": (
            fields(OPTIONS, max_seq_length=value),
            rf"max_seq_length is {re.escape(repr(value))}; expected a whole number above 0",
        )
        for value in (-1, 0, "512", False, [1])
    },
    "max_seq_length 1": (
        fields(OPTIONS, max_seq_length=1),
        "longest input is 1 tokens, .* takes 64; correct max_seq_length",
    ),
    "no processing of messages": (without(OPTIONS, "modality_config"), "has no 'message'"),
}
FAULTS = MODULE_FAULTS | POOLING_FAULTS | SETTING_FAULTS | OPTION_FAULTS


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_in_one_line(name: str, good_folder: Path, tmp_path: Path) -> None:
    """Faults of modules and settings."""
    refused_case(FAULTS[name], good_folder, tmp_path)
