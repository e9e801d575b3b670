"""Tests that a graph is loaded only if it fits, and that batches fit beside it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lame_runtime import Encoder
from lame_runtime.batching import MAX_TOKENS
from lame_runtime.bundle.manifest import PartWidths
from lame_runtime.cli.main import main
from lame_runtime.errors import BackendError, BundleError, UsageError
from lame_runtime.machine import graph_memory
from lame_runtime.machine.graph_memory import most_tokens, room_on_cpu
from lame_runtime.machine.memory import GIB

WIDTHS = PartWidths(1536, 8960, 12)
TINY = Path(__file__).parents[2] / "examples/tiny-bundle"
TEXTS = [f"digits that add up to {number}" for number in range(40)]


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Sets what the machine has available, 8 GB at first."""
    memory: dict[str, int | None] = {"bytes": 8 * 10**9}
    monkeypatch.setattr(graph_memory, "available_memory", lambda: memory["bytes"])
    return memory


def test_weights_count_once_and_the_larger_part_twice(available: dict[str, int | None]) -> None:
    """That is what loading takes at its peak; half precision is widened on a CPU."""
    parts = [10**9, 3 * 10**9]
    assert room_on_cpu("fp32", parts, None, {}) == pytest.approx(4e9, rel=0.1)
    with pytest.raises(BackendError, match=r"fp16 takes 11\.2 GB of memory, and 8\.0 GB are"):
        room_on_cpu("fp16", parts, None, {})
    available["bytes"] = 6 * 10**9
    with pytest.raises(BackendError, match=r"fp32 takes 7\.2 GB"):
        room_on_cpu("fp32", parts, None, {})
    available["bytes"] = 0
    with pytest.raises(BackendError, match=r"0\.0 GB are available"):
        room_on_cpu("fp32", parts, None, {})
    available["bytes"] = 6 * 10**9
    # mapped weights take nothing
    assert room_on_cpu("fp32", [], None, {}) == pytest.approx(6e9, rel=0.1)


def test_the_smallest_graph_that_fits_is_named(available: dict[str, int | None]) -> None:
    """Without one, only `map_weights` is left."""
    available["bytes"] = 3 * 10**9
    sizes = {"int8-cpu": 1_200_000_000, "w4-cpu": 900_000_000, "fp16": 2 * 10**9}
    with pytest.raises(BackendError, match="use `graph` w4-cpu, or leave the weights on the disk"):
        room_on_cpu("fp32", [4 * 10**9], None, sizes)
    with pytest.raises(BackendError, match="available: leave the weights on the disk with `map"):
        room_on_cpu("fp32", [4 * 10**9], None, {"fp16": 2 * 10**9})


def test_the_limit_and_the_machine_both_hold(available: dict[str, int | None]) -> None:
    """The smaller one counts; a system that tells nothing refuses only by the limit."""
    assert room_on_cpu("fp32", [10**9], 64.0, {}) == room_on_cpu("fp32", [10**9], None, {})
    with pytest.raises(BackendError, match=r"2\.1 GB are available"):
        room_on_cpu("fp32", [10**9], 2.0, {})
    available["bytes"] = None
    assert room_on_cpu("fp32", [10**12], None, {}) is None
    with pytest.raises(BackendError, match=r"2\.1 GB are available"):
        room_on_cpu("fp32", [10**9], 2.0, {})


def test_batches_shrink_with_the_room() -> None:
    """Half of it is for a batch's tokens; a batch has at least one and at most the usual number."""
    token = 4 * 3.5 * (1536 + 8960)
    assert most_tokens(round(2000.5 * token), WIDTHS) == 1000
    assert most_tokens(0, WIDTHS) == 1
    assert most_tokens(64 * GIB, WIDTHS) == MAX_TOKENS
    assert most_tokens(None, WIDTHS) == MAX_TOKENS
    assert most_tokens(1, None) == MAX_TOKENS


def test_a_bundle_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, available: dict[str, int | None], capsys: Any
) -> None:
    """The same message on the command line, with the flag; mapped, the bundle loads."""
    large = tmp_path / "large"
    shutil.copytree(TINY, large)
    weights = large / "graphs/encoder.fp32.onnx.data"
    # a file without content, as large as that of a model
    with weights.open("r+b") as file:
        file.truncate(6 * 10**9)
    with pytest.raises(BackendError, match=r"loading graph fp32\S* takes 12\.\d GB"):
        Encoder.load(large)
    assert main(["embed", str(large), "--text", "seven", "--output", str(tmp_path / "x.npy")]) == 1
    assert "with --map-weights" in capsys.readouterr().err
    available["bytes"] = None
    with pytest.raises(BackendError, match=r"and 2\.1 GB are available"):
        Encoder.load(large, memory=2)


def test_vectors_do_not_depend_on_memory(available: dict[str, int | None]) -> None:
    """With little memory batches are smaller."""
    with Encoder.load(TINY) as encoder:
        assert encoder.max_tokens == MAX_TOKENS
        expected = encoder.encode(TEXTS)
    # little more than loading takes
    available["bytes"] = graph_memory.LIBRARIES + 1_150_000
    with Encoder.load(TINY) as encoder:
        assert encoder.max_tokens < 120
        assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-6


@pytest.mark.parametrize("memory", ["4", 0, -1.0, float("nan"), True, 10**9])
def test_a_wrong_limit_is_refused_at_the_call(memory: Any) -> None:
    """Before the bundle is opened."""
    with pytest.raises(UsageError, match="`memory` is"):
        Encoder.load(TINY, memory=memory)


def test_a_file_that_cannot_be_looked_at_is_reported_where_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is unknown, which is no reason for a raw error; root may look at everything."""
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    stat = Path.stat

    def refused(self: Path, **options: Any) -> os.stat_result:
        if self.name.endswith(".data"):
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(BundleError, match="may not be read"):
        Encoder.load(bundle)
    monkeypatch.undo()
    (bundle / "graphs/encoder.fp32.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"encoder\.fp32\.onnx\.data"):
        Encoder.load(bundle)
