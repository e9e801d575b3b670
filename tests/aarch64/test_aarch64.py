"""The checks of aarch64 notice what may go wrong; an emulator that emulates nothing stands in."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from aarch64.__main__ import TINY_BUNDLE, table
from aarch64.emulator import CPUS, Emulator, Ended, cpuinfo
from aarch64.graph_checks import Check, Checker, graphs_of
from aarch64.installed import Installed, pinned_version
from aarch64.samples_made import make_inputs

VERSION = onnxruntime.__version__
ROW = {
    "comparison": "graph vs PyTorch",
    "modality": "text",
    "inputs": 1,
    "gate": None,
    "figure": {"min_cosine": 1.0},
    "passed": True,
    "reason": "",
}
"""One row of the report of `lame-runtime verify`, without its graph."""


@dataclass(frozen=True)
class Unemulated(Emulator):
    """Runs programs on this machine, and changes what comes out of them."""

    change: Callable[[tuple[str, ...], Ended], Ended] = lambda words, ended: ended

    def run(self, *command: str | Path, path: Path | None = None, cwd: Path | None = None) -> Ended:
        """Runs the program's arguments with this machine's Python."""
        words = (sys.executable, *map(str, command[1:]))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        stdout = done.stdout.replace('"Linux x86_64"', '"Linux aarch64"')
        return self.change(words, Ended(done.returncode, stdout, done.stderr))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One picture of the files that `make aarch64` embeds."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))[:1]


def check(
    folder: Path, inputs: list[Path], change: Callable[[tuple[str, ...], Ended], Ended]
) -> tuple[Check, Check]:
    """Returns the checks of the tiny bundle with changed output: one graph, and vectors."""
    (folder / "onnxruntime" / VERSION).mkdir(parents=True)
    installed = Installed(folder, Unemulated(folder, "max", change=change))
    checker = Checker(installed, inputs)
    (graph,) = checker.check(VERSION, TINY_BUNDLE, ["fp32"])
    return graph, checker.compare(VERSION, TINY_BUNDLE)


def test_a_graph_that_computes_the_same_holds(tmp_path: Path, inputs: list[Path]) -> None:
    """Golden vectors are met, and vectors equal those of this machine."""
    graph, vectors = check(tmp_path, inputs, lambda words, ended: ended)
    assert not graph.faults + vectors.faults
    assert (graph.rows > 10, vectors.rows) == (True, 2)
    assert graph.min_cosine > 0.99999
    assert vectors.min_cosine > 0.999999


def test_vectors_that_differ_are_a_fault(tmp_path: Path, inputs: list[Path]) -> None:
    """A control: one vector of the emulated program is changed."""

    def change(words: tuple[str, ...], ended: Ended) -> Ended:
        if "embed" in words:
            output = Path(words[words.index("--output") + 1])
            vectors = np.load(output)
            vectors[0, :4] += 0.01
            np.save(output, vectors)
        return ended

    graph, vectors = check(tmp_path, inputs, change)
    assert not graph.faults
    (fault,) = vectors.faults
    assert fault.startswith("against this machine: min_cosine 0.9")


def test_a_golden_vector_that_is_missed_is_a_fault(tmp_path: Path, inputs: list[Path]) -> None:
    """A control: a row of the report failed."""

    def change(words: tuple[str, ...], ended: Ended) -> Ended:
        text = ended.stdout.replace('"passed": true', '"passed": false')
        return Ended(1, text, "") if "verify" in words else ended

    graph, vectors = check(tmp_path, inputs, change)
    assert not vectors.faults
    assert any(fault.startswith("graph vs PyTorch, text: min_cosine") for fault in graph.faults)


def test_a_program_that_dies_is_a_fault_with_its_signal(tmp_path: Path, inputs: list[Path]) -> None:
    """An instruction that the CPU does not have ends the program, and the check goes on."""
    done = check(tmp_path, inputs, lambda words, ended: Ended(-signal.SIGILL, "", "qemu: …"))
    assert [one.faults for one in done] == [
        ("verify: illegal instruction",),
        ("embed: illegal instruction",),
    ]
    assert all(np.isnan(one.min_cosine) for one in done)


def test_the_graph_that_dies_is_blamed(tmp_path: Path) -> None:
    """Graphs share a process until it dies; then each has its own."""

    def change(words: tuple[str, ...], ended: Ended) -> Ended:
        if "int8" in words:
            return Ended(128 + signal.SIGSEGV, "", "")
        rows = [{**ROW, "graph": word} for word in words if word in ("fp32", "fp16")]
        report = {"backend": f"onnxruntime {VERSION} CPU", "machine": "Linux aarch64", "rows": rows}
        return Ended(0, json.dumps(report), "")

    (tmp_path / "onnxruntime" / VERSION).mkdir(parents=True)
    installed = Installed(tmp_path, Unemulated(tmp_path, "max", change=change))
    done = Checker(installed, []).check(VERSION, tmp_path, ["fp32", "int8", "fp16"])
    assert [check.faults for check in done] == [(), ("verify: segmentation fault",), ()]


def test_a_program_that_ran_elsewhere_is_a_fault(tmp_path: Path, inputs: list[Path]) -> None:
    """A check must not pass because the host's own Python or another version ran."""

    def change(words: tuple[str, ...], ended: Ended) -> Ended:
        return Ended(ended.code, ended.stdout.replace("aarch64", "x86_64"), ended.stderr)

    (fault,) = check(tmp_path, inputs, change)[0].faults
    assert fault.endswith("CPU, Linux x86_64")


def test_the_table_names_every_fault() -> None:
    """A graph that fails in one of two bundles does not hold."""
    good = Check("1.23.2", "max", "tiny-bundle", "fp32", 16, 1.0, ())
    bad = Check("1.23.2", "max", "bundle", "fp32", 0, 1.0, ("verify: illegal instruction",))
    other = Check("1.23.2", "max", "bundle", "fp16", 16, 0.9999, ())
    text = table([good, bad, other])
    assert "| 1.23.2 | max | 1 of 2 | fp16 0.999900 |" in text
    assert "onnxruntime 1.23.2, max, bundle, fp32: verify: illegal instruction" in text


def test_every_cpu_has_the_cpuinfo_of_an_arm() -> None:
    """The host's file makes ONNX Runtime crash, and a wrong part number leads it astray."""
    for cpu, (*_, part, _) in CPUS.items():
        lines = cpuinfo(cpu, 2).splitlines()
        assert lines.count(f"CPU part\t: {part:#05x}") == 2
        assert "processor\t: 1" in lines


def test_the_versions_are_those_of_the_project() -> None:
    """The pinned version is read from constraints.txt, and the bundle's graphs from it."""
    assert pinned_version() == VERSION
    assert "fp32" in graphs_of(TINY_BUNDLE)
