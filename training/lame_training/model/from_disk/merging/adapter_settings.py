"""Reads `adapter_config.json`: the settings that change what a merge gives, and nothing else.

PEFT imports modules that some settings name (`megatron_core`, `auto_mapping`), so its own reader is
not used. A setting is used, known to be without effect on a merge, or refused by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lame_runtime.errors import BundleError, shown

from lame_training.model.from_disk.tensors import read_object

CONFIG = "adapter_config.json"
REMEDY = "merge it with PEFT (merge_and_unload) and give the merged folder"
MAX_TEXT = 20_000
"""Longest name or pattern in characters; PEFT lists full names, or one long pattern."""
MAX_ENTRIES = 100_000

WITHOUT_EFFECT = {
    "auto_mapping",
    "base_model_class",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "init_weights",
    "lora_dropout",
    "lora_dtype",
    "lora_ga_config",
    "loftq_config",
    "lorap_emb_lr",
    "lorap_lr_ratio",
    "megatron_core",
    "model_key_mapping",
    "parent_library",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
"""Settings of training and book-keeping; they are not looked at."""
BIASES = ("none", "all", "lora_only")
INITIAL_WITHOUT_EFFECT = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of `init_lora_weights` that leave the base as it is; the saved weights replace theirs."""
INITIAL_OF_BASE = ("pissa", "olora")
"""Values that change the base before training, in a way that PEFT can repeat."""


@dataclass(frozen=True)
class AdapterSettings:
    """The settings of an adapter under PEFT's names.

    `target_modules` is a pattern, or a list of endings; `target_parameters` and
    `trainable_token_indices` are as in PEFT.
    """

    r: int = 8
    lora_alpha: float = 8.0
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] = ""
    layers_to_transform: list[int] = field(default_factory=list)
    layers_pattern: list[str] = field(default_factory=list)
    modules_to_save: list[str] = field(default_factory=list)
    target_parameters: list[str] = field(default_factory=list)
    tokens: list[int] | dict[str, list[int]] = field(default_factory=list)
    """Ids of tokens whose rows of the embedding table are replaced, all or by table."""
    bias: str = "none"
    """Which biases were trained: those of adapted layers if it is `lora_only`, or all."""
    lora_bias: bool = False
    init_lora_weights: bool | str = True


def read_settings(folder: Path) -> AdapterSettings:
    """Reads the settings of an adapter.

    Raises:
        BundleError: the file cannot be read, a setting has a value out of its range, or the adapter
            is of a type, or has a setting, that is not merged here.
    """
    path = folder / CONFIG
    raw = read_object(path, missing_is_empty=False)
    kind = raw.get("peft_type")
    if kind == "TRAINABLE_TOKENS":
        ids = _tokens(path, "token_indices", raw.get("token_indices"))
        tables = raw.get("target_modules")
        if isinstance(tables, list) and isinstance(ids, list):
            return AdapterSettings(
                tokens=dict.fromkeys(_names(path, "target_modules", tables), ids)
            )
        return AdapterSettings(tokens=ids)
    if kind != "LORA":
        raise BundleError(
            f"{path}: peft_type is {shown(kind)!r}; LORA (with DoRA and rsLoRA) and "
            f"TRAINABLE_TOKENS are merged here; {REMEDY}"
        )
    values = {
        name: _READERS[name](path, name, value)
        for name, value in raw.items()
        # null is PEFT's default of all settings that are not read otherwise
        if name in _READERS and value is not None
    }
    _refuse_others(path, raw)
    if "trainable_token_indices" in values:
        values["tokens"] = values.pop("trainable_token_indices")
    return AdapterSettings(**values)


def _refuse_others(path: Path, raw: dict[str, Any]) -> None:
    """Raises `BundleError` for a setting that may change a merge, and that is set."""
    for name, value in raw.items():
        known = name in _READERS or name in WITHOUT_EFFECT
        # null, false, 0 and empty lists are what PEFT writes for features that are off
        if not known and value:
            raise BundleError(
                f"{path}: {shown(name)} is {shown(value)}, which is not merged here; {REMEDY}"
            )


def _wrong(path: Path, name: str, value: Any, expected: str) -> BundleError:
    return BundleError(f"{path}: {name} is {shown(repr(value))}; expected {expected}")


def _switch(path: Path, name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, name, value, "true or false")
    return value


def _rank(path: Path, name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value <= 1 << 16:
        raise _wrong(path, name, value, "a whole number from 1 to 65,536")
    return value


def _alpha(path: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or abs(value) > 1e9 or not math.isfinite(value):
        raise _wrong(path, name, value, "a number up to 1e9")
    return value


def _names(path: Path, name: str, value: Any) -> list[str]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise _wrong(path, name, value, "a list of names")
    for entry in entries:
        if not isinstance(entry, str) or len(entry) > MAX_TEXT:
            raise _wrong(path, name, entry, "a list of names")
    return entries


def _targets(path: Path, name: str, value: Any) -> str | list[str]:
    names = _names(path, name, value)
    return names[0] if isinstance(value, str) else names


def _layers(path: Path, name: str, value: Any) -> list[int]:
    layers = [value] if type(value) is int else value
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise _wrong(path, name, value, "a list of numbers of layers")
    return layers


def _pattern(path: Path, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
        raise _wrong(path, name, value, "an object with a number for each pattern")
    _names(path, name, list(value))
    number = _rank if name == "rank_pattern" else _alpha
    return {key: number(path, f"{name}.{shown(key)}", entry) for key, entry in value.items()}


def _tokens(path: Path, name: str, value: Any) -> list[int] | dict[str, list[int]]:
    if isinstance(value, dict):
        _names(path, name, list(value))
        return {key: _ids(path, f"{name}.{shown(key)}", ids) for key, ids in value.items()}
    return _ids(path, name, value)


def _ids(path: Path, name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(entry) is int and entry >= 0 for entry in value):
        raise _wrong(path, name, value, "a list of token ids")
    if len(set(value)) < len(value):
        raise _wrong(path, name, value, "a list of different token ids")
    return value


def _bias(path: Path, name: str, value: Any) -> str:
    if value not in BIASES:
        raise _wrong(path, name, value, f"one of {', '.join(BIASES)}")
    return str(value)


def _initial(path: Path, name: str, value: Any) -> bool | str:
    if isinstance(value, bool | str):
        lowered = value.lower() if isinstance(value, str) else value
        if lowered in INITIAL_WITHOUT_EFFECT:
            return True
        if lowered in INITIAL_OF_BASE:
            return str(lowered)
    raise BundleError(
        f"{path}: {name} is {shown(value)!r}, which changed the base before training in a way that "
        f"cannot be repeated here; {REMEDY}"
    )


_READERS: dict[str, Any] = {
    "r": _rank,
    "lora_alpha": _alpha,
    "use_rslora": _switch,
    "use_dora": _switch,
    "rank_pattern": _pattern,
    "alpha_pattern": _pattern,
    "target_modules": _targets,
    "exclude_modules": _targets,
    "layers_to_transform": _layers,
    "layers_pattern": _names,
    "modules_to_save": _names,
    "target_parameters": _names,
    "trainable_token_indices": _tokens,
    "bias": _bias,
    "lora_bias": _switch,
    "init_lora_weights": _initial,
}
