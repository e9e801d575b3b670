"""Reads `sentence_bert_config.json`, which says how a folder's inputs are processed.

The settings are those of Sentence Transformers 6.2, `base/modules/transformer.py`. Whatever could
change a vector, and is not done here, is refused by its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown

from lame_training.model.from_disk.tensors import read_object

FILE = "sentence_bert_config.json"
_OLD_NAMES = {
    "model_args": "model_kwargs",
    "tokenizer_args": "processor_kwargs",
    "config_args": "config_kwargs",
}
_HARMLESS = {
    # Sentence Transformers ignores trust_remote_code of a folder
    "processor_kwargs": {
        "padding_side",
        "use_fast",
        "backend",
        "model_max_length",
        "trust_remote_code",
    },
    "model_kwargs": {
        "torch_dtype",
        "dtype",
        "attn_implementation",
        "device_map",
        "trust_remote_code",
    },
    "config_kwargs": {"use_cache", "trust_remote_code"},
}
"""Settings of loading that change no vector, or that are read elsewhere."""
_OFF = (
    "query_length",
    "document_length",
    "query_expansion",
    "do_lower_case",
    "tokenizer_name_or_path",
)
"""Settings that change what is read, and are supported only while they are off."""
_KNOWN = {
    *_HARMLESS,
    *_OFF,
    "transformer_task",
    "modality_config",
    "module_output_name",
    "processing_kwargs",
    "unpad_inputs",
    "max_seq_length",
}
_SIZES = {"padding", "truncation", "max_length", "return_tensors"}
"""Settings of processing that change no input that is within the limit."""
_RESERVED = {
    "chat_template",
    "continue_final_message",
    "conversation",
    "load_audio_from_video",
    "messages",
    "processor_kwargs",
    "return_assistant_tokens_mask",
    "return_dict",
    "sanitize_control_tokens",
    "tokenize",
}
"""Arguments of `apply_chat_template` that are no variables of the template."""


_WITH_CODE = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
"""Files that may refer to custom code."""


def check_own_code(folder: Path) -> None:
    """Checks that neither a model nor its processor has custom code.

    Such code may compute something else than transformers does for the same weights.

    Raises:
        BundleError: a file names code.
    """
    for name in _WITH_CODE:
        if read_object(folder / name).get("auto_map"):
            raise BundleError(
                f"{folder / name}: refers to custom code (auto_map), which is never run and may "
                "compute other vectors; use a model of transformers' own classes"
            )


def read_options(folder: Path) -> dict[str, Any]:
    """Returns the settings of the folder of a `Transformer` module.

    Raises:
        BundleError: the file cannot be read, or something in it is not supported.
    """
    path = folder / FILE
    options = read_object(path)
    for old, new in _OLD_NAMES.items():
        if old in options:
            options[new] = options.pop(old)
    for name in (*_HARMLESS, "processing_kwargs"):
        options[name] = _object(options, name, path)
    processing = options["processing_kwargs"]
    for name in processing:
        processing[name] = _object(processing, name, path)
    if unknown := sorted(set(options) - _KNOWN):
        raise BundleError(f"{path}: sets {shown(unknown[0])}, which is not supported; remove it")
    for name in _OFF:
        if options.get(name) not in (None, False):
            raise BundleError(
                f"{path}: {name} is {shown(repr(options[name]))}, which is not supported; "
                "use a model without it"
            )
    _check_task(options, path)
    _check_loading(options, path)
    return options


def template_variables(options: dict[str, Any]) -> dict[str, Any]:
    """Returns what the chat template is rendered with, besides the messages."""
    values = options["processing_kwargs"].get("chat_template", {})
    # Sentence Transformers takes restore_suffix itself
    others = _SIZES | {"restore_suffix"}
    variables = {name: value for name, value in values.items() if name not in others}
    return {"add_generation_prompt": False, **variables}


def check_variables(variables: dict[str, Any], template: str, folder: Path) -> None:
    """Raises `BundleError` if a setting of the chat template is none of the template's variables.

    transformers gives such a setting to the processor instead.
    """
    for name in variables:
        if name != "add_generation_prompt" and not re.search(rf"\b{re.escape(name)}\b", template):
            raise BundleError(
                f"{folder / FILE}: processing_kwargs.chat_template sets {shown(name)}, which the "
                "chat template does not have; set it in the processor's own files"
            )


def longest_input(options: dict[str, Any], backbone: Path, files: Path) -> int | None:
    """Returns the longest input in tokens that a folder names, or None if it names none.

    Args:
        options: what `read_options` returned.
        backbone: the folder that they were read from.
        files: the folder of the tokenizer.

    Raises:
        BundleError: a limit is not a whole number above 0.
    """
    path = backbone / FILE
    name = "model_max_length"
    config = files / "tokenizer_config.json"
    # in the order in which Sentence Transformers takes the first
    named = (
        whole_number(options["processor_kwargs"], name, path),
        whole_number(options, "max_seq_length", path),
        whole_number(read_object(config), name, config),
    )
    first = next((limit for limit in named if limit is not None), None)
    processing = options["processing_kwargs"].values()
    others = [whole_number(values, "max_length", path) for values in processing]
    # transformers writes 10^30 for a tokenizer without a limit
    limits = [limit for limit in (first, *others) if limit is not None and limit < 1 << 20]
    return min(limits, default=None)


def whole_number(settings: dict[str, Any], name: str, path: Path) -> int | None:
    """Returns a whole number above 0, or None if it is not there; raises `BundleError`."""
    value = settings.get(name)
    if value is None:
        return None
    # other writers of JSON turn 10^30 into 1e30
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is int and value > 0:
        return value
    raise BundleError(f"{path}: {name} is {shown(repr(value))}; expected a whole number above 0")


def _object(settings: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Returns an object of settings, which is empty if it is not there; raises `BundleError`."""
    value = settings.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BundleError(
            f"{path}: {shown(name)} is {shown(repr(value))}, not an object; copy the file again"
        )
    return value


def _check_task(options: dict[str, Any], path: Path) -> None:
    """Raises `BundleError` unless inputs become states of tokens through the chat template."""
    task = options.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise BundleError(
            f"{path}: transformer_task is {shown(repr(task))}, which is no embedder's; "
            "use a model of feature-extraction"
        )
    modalities = options.get("modality_config")
    message = modalities.get("message") if isinstance(modalities, dict) else None
    if not isinstance(message, dict):
        raise BundleError(
            f"{path}: its modality_config has no 'message', so it takes texts alone, without the "
            "chat template; save the model with Sentence Transformers 5.4 or later"
        )
    expected = {
        "method": "forward",
        "method_output_name": "last_hidden_state",
        "format": "structured",
    }
    for name, value in expected.items():
        if message.get(name, value) != value:
            raise BundleError(
                f"{path}: the {name} of messages is {shown(repr(message[name]))}; "
                f"supported is {value!r}"
            )
    output = options.get("module_output_name")
    if output != "token_embeddings":
        raise BundleError(
            f"{path}: module_output_name is {shown(repr(output))}; supported is 'token_embeddings'"
        )


def _check_loading(options: dict[str, Any], path: Path) -> None:
    """Raises `BundleError` if a setting of loading or processing could change a vector."""
    for name, known in _HARMLESS.items():
        if unknown := sorted(set(options[name]) - known):
            raise BundleError(
                f"{path}: {name} sets {shown(unknown[0])}, which is not supported; "
                "set it in the model's own files"
            )
    for name, values in options["processing_kwargs"].items():
        is_template = name == "chat_template"
        others = set(values) & _RESERVED if is_template else set(values) - _SIZES
        if others:
            raise BundleError(
                f"{path}: processing_kwargs.{shown(name)} sets {shown(sorted(others)[0])}, "
                "which is not supported; set it in the processor's own files"
            )
