"""A checkpoint of an older contract version is exported and verified as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from lame_export.passes.source.load_checkpoint import shared_content
from lame_runtime import Encoder
from lame_runtime.contract.rules import CONTRACT_VERSION
from lame_runtime.errors import BundleError

from lame_export import export, verify


def with_version(checkpoint: Path, folder: Path, version: int) -> Path:
    """Copies a checkpoint, with another version in its contract and the fields that it had."""
    shutil.copytree(checkpoint, folder)
    path = folder / "contract.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["contract_version"] = version
    if version < CONTRACT_VERSION:
        for name in ("system_open", "system_close", "default_role", "as_given"):
            del raw["prompt"][name]
        del raw["tokens"]["has_embed"]
    path.write_text(json.dumps(raw, indent=2), encoding="utf-8")
    return folder


@pytest.mark.parametrize("version", [2, 3])
def test_a_checkpoint_of_an_older_version_gives_a_current_bundle(
    checkpoint: Path, data: Path, tmp_path: Path, version: int
) -> None:
    """The bundle embeds, and verification compares it with the same checkpoint."""
    older = with_version(checkpoint, tmp_path / "older", version)
    bundle = tmp_path / "bundle"
    export(older, bundle, data, ("fp32",), per_modality=2)
    assert (bundle / "contract.json").read_bytes() == (checkpoint / "contract.json").read_bytes()
    with Encoder.load(bundle) as encoder:
        assert encoder.encode("seven").shape == (1, encoder.dim)
    rows = verify(bundle, older)
    assert all(row.passed is not False for row in rows)


def test_a_current_contract_is_copied_byte_for_byte(checkpoint: Path, tmp_path: Path) -> None:
    """Its layout stays; a version that no checkpoint may have is refused."""
    same = with_version(checkpoint, tmp_path / "same", CONTRACT_VERSION)
    path = same / "contract.json"
    path.write_text(path.read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    assert shared_content(path) == path.read_bytes()
    with pytest.raises(BundleError, match="contract_version 1 is not known here"):
        shared_content(with_version(checkpoint, tmp_path / "first", 1) / "contract.json")
