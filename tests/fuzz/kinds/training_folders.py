"""The checkpoint, backbone and adapter that the training kinds change."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.kinds.bundle_copies import replace_bytes
from fuzz.kinds.edits import VALUES, edited
from fuzz.media.damage import damaged


def write_training_folders(folder: Path) -> None:
    """Writes `data`, `checkpoint`, `backbone` and `adapter`, if they are not there yet."""
    if (folder / "adapter").exists():
        return
    import peft
    from lame_training import load_checkpoint, train
    from lame_training.__main__ import main
    from lame_training.data.digits import TINY, write_digits
    from lame_training.fixtures.sample_backbone import write_sample
    from lame_training.model.backbones import load_backbone

    write_digits(folder / "data", TINY)
    train("digits-tiny", folder / "data", folder / "checkpoint", steps=1, progress=False)
    with load_checkpoint(folder / "checkpoint") as encoder:
        encoder.encode("seven")
    write_sample("qwen2_vl", folder / "backbone")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    model = peft.get_peft_model(load_backbone(folder / "backbone", "auto"), config)
    model.save_pretrained(folder / "adapter")
    rewrite(
        folder / "adapter/adapter_config.json",
        [["set", ["base_model_name_or_path"], "backbone"]],
    )
    # the adapter names its base by a relative path
    before = Path.cwd()
    os.chdir(folder)
    load_backbone(Path("adapter"), "auto")
    os.chdir(before)
    with contextlib.redirect_stdout(None):
        main(["run", "digits-tiny", "--data", str(folder / "data"), "--dry-run"])


def rewrite(path: Path, changes: list[list[Any]]) -> None:
    """Applies edits to a JSON file."""
    if changes:
        content = json.loads(path.read_text())
        for operation, keys, value in changes:
            # keys that this version does not write may be set as well
            if operation == "set" and len(keys) == 1 and isinstance(content, dict):
                content.setdefault(keys[0], value)
        replace_bytes(path, edited(content, changes).encode("utf-8", "surrogatepass"))


def header_change(random: Random) -> Case:
    """Returns a change of a safetensors file, whose tensors are named by their number."""
    action = random.choice(("field", "field", "length", "cut", "damage"))
    if action == "length":
        return {"length": random.choice((0, 1, 2**31, 2**63 - 1, 2**64 - 1, 100_000_001))}
    if action == "cut":
        return {"cut": random.random()}
    if action == "damage":
        return {"damage": random.randrange(10**9)}
    field = random.choice(("dtype", "shape", "data_offsets", "name", "name", "all"))
    value = random.choice(VALUES)
    if field == "dtype" and random.random() < 0.7:
        value = random.choice(("F64", "F32", "F16", "BF16", "I8", "BOOL", "F8_E4M3", "U64"))
    elif field == "shape" and random.random() < 0.7:
        value = random.choice(([], [0], [2**62, 4], [-1], [1], [2**32, 2**32]))
    elif field == "data_offsets" and random.random() < 0.7:
        value = random.choice(([0, 0], [0, 2**63], [8, 4], [-4, 0], [0, 4]))
    return {"tensor": random.randrange(100), "field": field, "value": value}


def change_header(path: Path, change: Case) -> None:
    """Changes a safetensors file: 8 bytes of length, a JSON header, the tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    if "length" in change:
        data = struct.pack("<Q", change["length"]) + data[8:]
    elif "cut" in change:
        data = data[: int(change["cut"] * len(data))]
    elif "damage" in change:
        head = damaged(Random(change["damage"]), data[: 8 + length], data[:64])
        data = head + data[8 + length :]
    else:
        header = json.loads(data[8 : 8 + length])
        names = sorted(name for name in header if name != "__metadata__")
        name, field = names[change["tensor"] % len(names)], change["field"]
        edit = {
            "name": ["rename", [name], str(change["value"])[:100]],
            "all": ["set", [name], change["value"]],
        }.get(field, ["set", [name, field], change["value"]])
        text = edited(header, [edit]).encode("utf-8", "surrogatepass")
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    replace_bytes(path, data)
