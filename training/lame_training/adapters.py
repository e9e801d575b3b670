"""LoRA and its relatives through PEFT: an adapter is merged into the weights when a model is loaded for use."""

from __future__ import annotations

import warnings
from pathlib import Path

from lame_runtime.errors import InputError
from transformers import PreTrainedModel

from lame_training.backbones import first_line


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with a PEFT adapter's change added to its weights.

    Args:
        model: the base.
        folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT's `save_pretrained` writes them.

    Raises:
        InputError: the adapter is pickled, unreadable or another model's.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        found = "a pickled adapter, which is never loaded" if list(folder.glob("*.bin")) else "no adapter_model.safetensors"
        raise InputError(f"{folder}: holds {found}; save the adapter as safetensors (PEFT does)")
    before = {name for name, _ in model.named_parameters()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about names PEFT still uses
            adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
            report = adapted.load_adapter(folder, "default", local_files_only=True)
            merged = adapted.merge_and_unload(safe_merge=True)
        if report.unexpected_keys:
            raise ValueError(f"unknown weight {report.unexpected_keys[0]}")
        if lost := [key for key in report.missing_keys if "lora_" in key]:
            raise ValueError(f"missing weight {lost[0]}")
    except Exception as error:  # PEFT passes on what torch, safetensors and its own checks raise
        raise InputError(f"{folder}: the adapter cannot be merged ({first_line(error)}); is it this model's?") from None
    if {name for name, _ in merged.named_parameters()} != before:
        raise InputError(f"{folder}: the adapter changes more than weights; merge it with PEFT first")
    return merged
