"""Starts programs for aarch64 under QEMU on one of several CPUs."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

CPUS = {
    "cortex-a57": (0x41, 0x1, 0xD07, 0),
    "cortex-a72": (0x41, 0x0, 0xD08, 3),
    "cortex-a76": (0x41, 0x4, 0xD0B, 1),
    "neoverse-n1": (0x41, 0x4, 0xD0C, 1),
    "neoverse-v1": (0x41, 0x1, 0xD40, 2),
    "max": (0x00, 0x0, 0x051, 0),
}
"""QEMU's CPUs with implementer, variant, part and revision, as `/proc/cpuinfo` gives them."""
DEADLINE_S = 1800
"""Seconds after which a program counts as hanging."""


@dataclass(frozen=True)
class Ended:
    """Output of a program, and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """Why the program failed, in one line; an empty string if it did not."""
        if self.code == 0:
            return ""
        # QEMU ends itself with the program's signal; a shell in between would add 128.
        number = -self.code if self.code < 0 else self.code - 128
        if self.code < 0 or self.code > 128:
            return (signal.strsignal(number) or f"signal {number}").lower()
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.code}"


@dataclass(frozen=True)
class Emulator:
    """Runs the programs of a Debian root for arm64 on one CPU."""

    root: Path
    cpu: str
    qemu: str = "qemu-aarch64"

    def run(self, *command: str | Path, path: Path | None = None, cwd: Path | None = None) -> Ended:
        """Runs a program to its end.

        Args:
            command: the program and its arguments.
            path: folder that Python searches before its own packages.
            cwd: working folder.
        """
        self._write_cpuinfo()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        # one thread, because QEMU translates each of them anew and the cores may be shared
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        words = [self.qemu, "-cpu", self.cpu, "-L", str(self.root), *map(str, command)]
        try:
            done = subprocess.run(
                words,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                cwd=cwd,
                timeout=DEADLINE_S,
            )
        except subprocess.TimeoutExpired:
            return Ended(1, "", f"did not end within {DEADLINE_S} seconds")
        return Ended(done.returncode, done.stdout, done.stderr)

    def _write_cpuinfo(self) -> None:
        """Writes the `/proc/cpuinfo` that programs see, because QEMU 7 shows them the host's.

        ONNX Runtime 1.28 and later crash while they are imported if the file is not that of an ARM
        CPU. The part number must be that of the emulated CPU, because features are derived from it
        as well: with that of a Cortex-A76, 1.31 runs dot products on a Cortex-A57, which has none.
        """
        file = self.root / "proc/cpuinfo"
        file.parent.mkdir(exist_ok=True)
        file.write_text(cpuinfo(self.cpu, os.cpu_count() or 1), encoding="ascii")


def cpuinfo(cpu: str, cores: int) -> str:
    """Returns what Linux shows in `/proc/cpuinfo` on a CPU, without the list of features.

    Programs for aarch64 ask the kernel for the features (HWCAP), which QEMU answers.
    """
    implementer, variant, part, revision = CPUS[cpu]
    return "".join(
        f"processor\t: {core}\n"
        "BogoMIPS\t: 100.00\n"
        f"CPU implementer\t: {implementer:#04x}\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: {variant:#x}\n"
        f"CPU part\t: {part:#05x}\n"
        f"CPU revision\t: {revision}\n\n"
        for core in range(cores)
    )
