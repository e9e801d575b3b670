"""Names, limits and targets of an import, and what the command says of other folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from folder_edits import (
    Edit,
    both,
    copied,
    fields,
    gone,
    refused,
    text,
    truncated,
    write,
)
from lame_runtime.errors import StorageError, UsageError
from lame_training.published.import_embedder import ImportLimits, import_embedder


@pytest.mark.parametrize(
    "odd", ["line\nbreak", "quote \"and' more", "\x1b[31mred", "ünï ⚙", "x" * 250]
)
def test_odd_names_of_folders(odd: str, good_folder: Path, tmp_path: Path) -> None:
    """Messages stay on one line, and good folders of such names are imported."""
    folder = copied(good_folder, tmp_path / odd)
    import_embedder(folder, tmp_path / "checkpoint")
    write(folder, "modules.json", [])
    refused(folder, "its modules are none")


@pytest.mark.parametrize("name", ["max_length", "max_pixels"])
@pytest.mark.parametrize("value", [0, -1, True, "512", 1.5, 1 << 40])
def test_limits_are_whole_numbers(name: str, value: Any) -> None:
    """Anything else names the argument."""
    with pytest.raises(UsageError, match=rf"`{name}` is .*: use (a whole number from )?1"):
        ImportLimits(**{name: value})


@pytest.mark.parametrize(
    ("limits", "pattern"),
    [
        (
            ImportLimits(max_length=1 << 20),
            "`max_length` is 1048576: the limit of .* is 128,000; use",
        ),
        (ImportLimits(max_length=1), "`max_length` is 1: the smallest picture of .* takes 64 tok"),
        (ImportLimits(max_pixels=1_023), "`max_pixels` is 1023: one token of .* takes 1,024 pix"),
    ],
)
def test_limits_must_fit(
    limits: ImportLimits, pattern: str, good_folder: Path, tmp_path: Path
) -> None:
    """Limits that no input can meet, or above the folder's own."""
    refused(copied(good_folder, tmp_path / "folder"), pattern, limits)


def test_the_target_must_be_new(good_folder: Path, tmp_path: Path) -> None:
    """An existing target, the folder itself and a lost link are refused before weights are read."""
    folder = copied(good_folder, tmp_path / "folder")
    truncated(folder)
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for target in (folder, folder / "1_Pooling", tmp_path / "lost"):
        before = sorted(folder.rglob("*"))
        with pytest.raises(StorageError, match="already exists; remove it or choose another"):
            import_embedder(folder, target)
        assert sorted(folder.rglob("*")) == before


def test_a_target_inside_of_the_folder_changes_nothing_else(
    good_folder: Path, tmp_path: Path
) -> None:
    """Published folders keep other formats in folders of their own, such as `onnx`."""
    folder = copied(good_folder, tmp_path / "folder")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    contract = import_embedder(folder, folder / "lame" / "checkpoint")
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert import_embedder(folder, tmp_path / "again") == contract


KINDS: dict[str, tuple[Edit, str]] = {
    "CLIP": (text("config.json", {"model_type": "clip"}), "is a clip model; supported backbones"),
    "ColPali": (
        text("config.json", {"model_type": "qwen2_vl", "architectures": ["ColQwen2"]}),
        "a vector for each token; models of several vectors are not supported",
    ),
    "code of its own": (
        text("config.json", {"model_type": "qwen2_vl", "auto_map": {"AutoModel": "m.M"}}),
        "with custom code, which is never run",
    ),
    "no modules.json": (lambda folder: folder, r"is a backbone without modules\.json"),
    "odd architectures": (fields("config.json", architectures=5), "is a backbone without modules"),
    "odd type": (fields("config.json", model_type=["x\n"]), r"is a \['x\\*n'\] model; supp"),
    "nothing": (gone("config.json"), "is not a Sentence Transformers folder; there is"),
    "adapter": (
        both(gone("config.json"), text("adapter_config.json", {})),
        r"holds an adapter without modules\.json",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_command_names_what_a_folder_is(
    name: str, good_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders without modules.json: exit code 2 and one line."""
    from lame_training.__main__ import main

    edit, pattern = KINDS[name]
    folder = copied(good_folder, tmp_path / "folder")
    gone("modules.json")(folder)
    edit(folder)
    assert main(["import", str(folder), str(tmp_path / "checkpoint")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(pattern, lines[0]), lines[0]
    assert not (tmp_path / "checkpoint").exists()
