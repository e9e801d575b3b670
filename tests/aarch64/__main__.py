"""The command line: `python -m aarch64 --versions 1.23.2,1.31.1 --cpus cortex-a57,max`."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import floor

from aarch64.debian_root import make_root
from aarch64.emulator import CPUS, Emulator
from aarch64.graph_checks import Check, Checker, graphs_of
from aarch64.installed import REPOSITORY, Installed, pinned_version
from aarch64.samples_made import make_bundle, make_inputs

DEFAULT_CPUS = "cortex-a57,cortex-a76,max"
"""An ARMv8.0 without dot products or FP16, the ARMv8.2 of Orin's A78, and all that QEMU has."""
TINY_BUNDLE = REPOSITORY / "examples/tiny-bundle"


def main() -> int:
    """Checks every graph with every version on every CPU; returns 1 if anything failed."""
    options = _options()
    if shutil.which(options.qemu) is None:
        raise SystemExit(f"{options.qemu} is missing; install it with: apt install qemu-user")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    versions = _words(options.versions) or [floor.VERSION, pinned_version()]
    cpus = _words(options.cpus)
    if unknown := [cpu for cpu in cpus if cpu not in CPUS]:
        raise SystemExit(f"no CPU {', '.join(unknown)}: use {', '.join(CPUS)}")
    _say(f"Debian's Python for arm64, in {options.folder}")
    root = make_root(folder)
    _say("the wheel of lame_runtime")
    Installed(folder, Emulator(root, cpus[0], options.qemu)).install()
    bundles = [path.resolve() for path in options.bundle]
    if not bundles:
        _say("a bundle with all graphs")
        bundles = [TINY_BUNDLE, make_bundle(folder)]
    inputs = make_inputs(folder / "inputs")
    checks = []
    for cpu in cpus:
        installed = Installed(folder, Emulator(root, cpu, options.qemu))
        checker = Checker(installed, inputs)
        for version in versions:
            for bundle in bundles:
                graphs = _words(options.graphs) or graphs_of(bundle)
                start = time.monotonic()
                done = [*checker.check(version, bundle, graphs), checker.compare(version, bundle)]
                _say("\n".join(map(_line, done)) + f" ({time.monotonic() - start:.0f} s)")
                checks += done
    if options.json:
        rows = [asdict(check) for check in checks]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(checks))
    failed = [check for check in checks if check.faults]
    print(f"\n{len(checks) - len(failed)} of {len(checks)} hold; {_emulator(options.qemu)}")
    return 1 if failed or not checks else 0


def table(checks: list[Check]) -> str:
    """Returns the checks as a Markdown table, a line for each version and CPU, and all faults."""
    lines = [
        "| ONNX Runtime | CPU | checks that hold | smallest cosine |",
        "| --- | --- | --- | --- |",
    ]
    for version, cpu in dict.fromkeys((check.version, check.cpu) for check in checks):
        graphs: dict[str, list[Check]] = {}
        for check in checks:
            if (check.version, check.cpu) == (version, cpu):
                # several bundles may hold a graph of that name
                graphs.setdefault(check.graph, []).append(check)
        figures = [
            f"{graph} {min(check.min_cosine for check in group):.6f}"
            for graph, group in graphs.items()
            if not any(check.faults for check in group)
        ]
        count = f"{len(figures)} of {len(graphs)}"
        lines.append(f"| {version} | {cpu} | {count} | {', '.join(figures)} |")
    faults = [f"- {_line(check)}" for check in checks if check.faults]
    return "\n".join([*lines, *([""] if faults else []), *faults])


def _line(check: Check) -> str:
    verdict = "; ".join(check.faults) or f"ok, {check.rows} rows"
    return f"onnxruntime {check.version}, {check.cpu}, {check.bundle}, {check.graph}: {verdict}"


def _emulator(qemu: str) -> str:
    done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m aarch64", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/aarch64"), help="working folder")
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        help="bundle to check, repeatable (default: the tiny one, and a new one with all graphs)",
    )
    parser.add_argument("--versions", default="", help="ONNX Runtimes, with commas between them")
    parser.add_argument("--cpus", default=DEFAULT_CPUS, help="CPUs, with commas between them")
    parser.add_argument("--graphs", default="", help="graphs, with commas (default: the bundle's)")
    parser.add_argument("--qemu", default="qemu-aarch64", help="QEMU's program")
    parser.add_argument("--json", type=Path, help="write all checks to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
