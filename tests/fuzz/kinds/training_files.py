"""Checkpoints and adapters as hostile input."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds.base import Kind, link_tree
from fuzz.kinds.bundle_copies import replace_bytes
from fuzz.kinds.bundle_files import parsed
from fuzz.kinds.edits import edits
from fuzz.kinds.training_folders import (
    change_header,
    header_change,
    rewrite,
    write_training_folders,
)
from fuzz.outcome import WrongError, check_vectors

_ADAPTER = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "backbone",
    "bias": "none", "inference_mode": True, "layers_pattern": None, "layers_to_transform": None,
    "lora_alpha": 8, "lora_dropout": 0.0, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": 4,
    "rank_pattern": {}, "target_modules": ["q_proj"], "task_type": None, "use_dora": False,
    "use_rslora": False, "layer_replication": None, "loftq_config": {}, "eva_config": None,
    "corda_config": None, "lora_bias": False, "runtime_config": None,
    "trainable_token_indices": None, "exclude_modules": None, "fan_in_fan_out": False,
    "init_lora_weights": True, "revision": None, "use_qalora": False, "arrow_config": None,
    "target_parameters": None,
}  # fmt: skip
"""Keys of an adapter's config, as PEFT writes them."""
_ARCHITECTURE = {
    "backbone": {
        "model_type": "qwen2_vl", "image_token_id": 6, "tie_word_embeddings": False, "dtype": None,
        "text_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512,
            "num_attention_heads": 2, "num_key_value_heads": 2, "hidden_act": "silu",
            "layer_types": ["full_attention", "full_attention"], "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "mrope_section": [4, 6, 6], "rope_theta": 1e4, "rope_type": "default",
            },
        },
        "vision_config": {
            "depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "in_channels": 3,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "mlp_ratio": 4,
        },
    },
    "decoder": {
        "model_type": "qwen3", "hidden_size": 96, "head_dim": 24, "num_hidden_layers": 2,
        "vocab_size": 512,
    },
    "dim": 64, "embed_attends": "everything", "n_reason": 4, "pooling": "concat",
    "rec_from": "reason", "steps": 16, "from_folder": False,
}  # fmt: skip
"""Keys of a checkpoint's `config.json` and `architecture.json`."""
_HOSTILE: tuple[list[Any], ...] = (
    ["set", ["megatron_config"], {"a": 1}], ["set", ["megatron_core"], "evil_module"],
    ["set", ["auto_mapping"], {"base_model_class": "x", "parent_library": "evil_module"}],
    ["set", ["target_modules"], "(x+x+)+y"], ["set", ["target_modules"], "all-linear"],
    ["set", ["target_modules"], "("], ["set", ["peft_type"], "PROMPT_TUNING"],
    ["set", ["peft_type"], "evil_module"], ["set", ["peft_type"], "XLORA"],
    ["set", ["base_model_name_or_path"], "http://127.0.0.1/x"],
    ["set", ["base_model_name_or_path"], "{elsewhere}"],
    ["set", ["base_model_name_or_path"], "adapter"],
    ["set", ["base_model_name_or_path"], "missing/name"],
    ["set", ["modules_to_save"], ["lm_head"]], ["set", ["modules_to_save"], ["visual"]],
    ["set", ["r"], 0], ["set", ["r"], 10**9], ["set", ["rank_pattern"], {"q_proj": 10**9}],
    ["set", ["layer_replication"], [[0, 10**6]]], ["set", ["lora_alpha"], 1e308],
    ["set", ["use_dora"], True], ["set", ["task_type"], "CAUSAL_LM"],
    ["set", ["init_lora_weights"], "pissa"], ["set", ["init_lora_weights"], "eva"],
    ["set", ["init_lora_weights"], "olora"], ["set", ["eva_config"], {"rho": 2}],
    ["set", ["loftq_config"], {"loftq_bits": 4}], ["set", ["bias"], "all"],
    ["set", ["exclude_modules"], "(x+x+)+y"], ["set", ["trainable_token_indices"], [10**9]],
    ["set", ["target_parameters"], ["x.y"]], ["set", ["arrow_config"], {"router_seed": 1}],
)  # fmt: skip
_BACKBONE_HOSTILE: tuple[list[Any], ...] = (
    ["set", ["auto_map"], {"AutoModel": "evil_module.Model"}],
    ["set", ["model_type"], "evil_module"],
    ["set", ["quantization_config"], {"quant_method": "gptq", "bits": 4}],
    ["set", ["attn_implementation"], "kernels-community/x"],
    ["set", ["_attn_implementation"], "http://127.0.0.1/x"], ["set", ["use_kernels"], True],
    ["set", ["trust_remote_code"], True], ["set", ["dtype"], "evil_module"],
    ["set", ["text_config", "num_hidden_layers"], 10**9],
    ["set", ["text_config", "hidden_size"], 10**9], ["set", ["text_config", "vocab_size"], 10**12],
    ["set", ["vision_config", "depth"], 10**9],
    ["set", ["text_config", "rope_parameters"], {"rope_type": "yarn", "factor": 1e308}],
    ["set", ["_name_or_path"], "http://127.0.0.1/x"],
    ["set", ["transformers_weights"], "{elsewhere}/secret.data"],
)  # fmt: skip


class TrainingKind(Kind):
    """A kind of the training group; a worker writes one checkpoint, backbone and adapter."""

    group = "training"
    starts_processes = True

    def expects(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Returns whether a process is the one that evaluates patterns and templates of a folder.

        It has limits of its own and runs a program of ours.
        """
        from lame_training.model.from_disk import limited_process

        command = [sys.executable, "-c", vars(limited_process)["_PROGRAM"]]
        return event == "subprocess.Popen" and list(arguments[1]) == command

    def open(self, room: Room) -> None:
        """Writes the folders once for all kinds of a worker."""
        super().open(room)
        from lame_training.run import environment

        # a run asks git for the commit it was made with, and a case must not start a program
        environment.commit = lambda: None
        write_training_folders(room.fixed)


class Adapters(TrainingKind):
    """Merges an adapter of which the config, the weights or the files were changed.

    A case holds `config` and `backbone` (edits), `weights` (changes of the safetensors file) and
    `files` ([name, bytes] to add).
    """

    name = "adapters"
    share = 2.0
    slice_cases = 60

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        choice = random.random()
        if choice < 0.35:
            return {"config": edits(random, _ADAPTER)}
        if choice < 0.6:
            return {"config": [random.choice(_HOSTILE) for _ in range(random.choice((1, 1, 2)))]}
        if choice < 0.75:
            return {"weights": header_change(random)}
        if choice < 0.9:
            return {"backbone": [random.choice(_BACKBONE_HOSTILE)]}
        name = random.choice(
            (
                "adapter_model.bin",
                "pytorch_model.bin",
                "model.safetensors.index.json",
                "modeling_evil.py",
            )
        )
        index = {
            "weight_map": {
                "a": random.choice(("pytorch_model.bin", "../elsewhere.bin", "/dev/zero"))
            }
        }
        content = (
            json.dumps(index).encode() if name.endswith(".json") else b"\x80\x04cposix\nsystem\n."
        )
        return {"files": [[random.choice(("adapter", "backbone")), name, content]]}

    def prepare(self, case: Case) -> None:
        """Makes copies of the backbone and the adapter."""
        work, fixed = self.room.work, self.room.fixed
        for name in ("backbone", "adapter"):
            link_tree(fixed / name, work / name)
        for folder, file in (("adapter", "adapter_config.json"), ("backbone", "config.json")):
            changes = case.get("config" if folder == "adapter" else "backbone", [])
            rewrite(work / folder / file, changes)
        if "weights" in case:
            change_header(work / "adapter/adapter_model.safetensors", case["weights"])
        for folder, name, content in case.get("files", []):
            if name.endswith((".bin", "index.json")):
                with contextlib.suppress(FileNotFoundError):
                    (work / folder / name.replace(".bin", ".safetensors")).unlink()
            replace_bytes(work / folder / name, content)

    def run(self, case: Case) -> None:
        """Merges the adapter and checks that weights are finite."""
        import torch
        from lame_training.model.backbones import load_backbone

        model = load_backbone(Path("adapter"), "auto")
        if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
            raise WrongError("weights are not finite")


class Checkpoints(TrainingKind):
    """Loads and embeds with a checkpoint of which a JSON file or the weights were changed."""

    name = "checkpoints"
    share = 1.5
    slice_cases = 60

    def generate(self, random: Random) -> Case:
        """Returns a case; edits of what this version does not write are skipped."""
        name = random.choice(
            ("config.json", "contract.json", "architecture.json", "tokenizer.json", "weights")
        )
        if name == "weights":
            return {"weights": header_change(random)}
        content = _ARCHITECTURE if name in ("config.json", "architecture.json") else parsed(name)
        return {"json": {name: edits(random, content)}}

    def prepare(self, case: Case) -> None:
        """Makes a copy of the checkpoint."""
        folder = self.room.work / "checkpoint"
        link_tree(self.room.fixed / "checkpoint", folder)
        if "weights" in case:
            change_header(folder / "model.safetensors", case["weights"])
        for name, changes in case.get("json", {}).items():
            rewrite(folder / name, changes)

    def run(self, case: Case) -> None:
        """Embeds a text."""
        from lame_training import load_checkpoint

        with load_checkpoint("checkpoint") as encoder:
            check_vectors(encoder.encode("seven"), 1, encoder.dim)
