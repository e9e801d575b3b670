"""Installs the built wheel of lame_runtime, and several ONNX Runtimes, in the Python for arm64."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from aarch64.emulator import Emulator

REPOSITORY = Path(__file__).parents[2]
CONSTRAINTS = REPOSITORY / "constraints.txt"
EXTRAS = "onnxruntime,pdf,video"
"""Extras of lame_runtime whose wheels must exist for aarch64."""


def pinned_version() -> str:
    """Returns the version of ONNX Runtime in constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    (version,) = (line.split("==")[1] for line in lines if line.startswith("onnxruntime=="))
    return version


@dataclass(frozen=True)
class Installed:
    """A virtual environment for arm64 with lame_runtime, and ONNX Runtimes in folders beside it."""

    folder: Path
    emulator: Emulator

    @property
    def python(self) -> Path:
        """The environment's interpreter, which only QEMU can start."""
        return self.folder / "venv/bin/python"

    def install(self) -> None:
        """Builds the wheel and installs it with its extras and the pinned versions.

        Raises:
            SystemExit: a wheel is missing for aarch64, or an install failed.
        """
        wheel = self._built_wheel()
        if not self.python.is_symlink():
            base = self.emulator.root / "usr/bin/python3"
            self._require(base, "-m", "venv", "--without-pip", self.folder / "venv")
        self._pip("-c", str(CONSTRAINTS), f"{wheel}[{EXTRAS}]")
        # again, because pip keeps a wheel of the same version
        self._pip("--no-deps", "--force-reinstall", str(wheel))

    def onnxruntime(self, version: str) -> Path:
        """Returns the folder of a version of ONNX Runtime, which is installed there if missing."""
        target = self.folder / "onnxruntime" / version
        if not target.is_dir():
            part = target.with_name(f"{version}.part")
            shutil.rmtree(part, ignore_errors=True)
            self._pip("--no-deps", "--target", str(part), f"onnxruntime=={version}")
            part.rename(target)
        return target

    def _built_wheel(self) -> Path:
        dist = self.folder / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(dist)]
        done = subprocess.run(
            [*build, str(REPOSITORY / "runtime")], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"the wheel was not built: {done.stdout.strip()[-500:]}")
        (wheel,) = dist.glob("*.whl")
        return wheel

    def _pip(self, *arguments: str) -> None:
        # Debian's wheel of pip runs from where it lies. Under QEMU it takes the wheels that this
        # Python and its C library can load, as on a board; nothing is built from source.
        (pip,) = (self.emulator.root / "usr/share/python-wheels").glob("pip-*.whl")
        options = ("--quiet", "--only-binary", ":all:", "--no-compile")
        self._require(self.python, pip / "pip", "install", *options, *arguments)

    def _require(self, *command: str | Path) -> None:
        ended = self.emulator.run(*command)
        if ended.code:
            raise SystemExit(f"{' '.join(map(str, command[-3:]))}: {ended.stderr.strip()[-1500:]}")
