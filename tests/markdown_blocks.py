"""Fenced blocks of Markdown files, and what runs them.

A block marked `sh` or `python` runs as it stands. One marked `bash` or `py` is only shown, because
it needs a GPU, the network or hours; its commands must still be ones that the programs know.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from samples import write_video

ROOT = Path(__file__).parent.parent
PROGRAMS = ("lame-runtime", "lame-train", "lame-export")
RUN = ("sh", "python")
SHOWN = ("bash", "py")
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Commands of a shell block, continued lines joined, without empty lines and comments."""
        lines = (line.strip() for line in self.text.replace("\\\n", " ").splitlines())
        return [line for line in lines if line and not line.startswith("#")]


def read_blocks(path: Path, languages: tuple[str, ...] = RUN) -> list[Block]:
    """Returns the blocks of a Markdown file in these languages, in order."""
    fences = _FENCE.findall(path.read_text(encoding="utf-8"))
    return [Block(language, text) for _, language, text in fences if language in languages]


def arguments_of(line: str) -> list[str]:
    """Splits a command as a shell does; `shlex` takes `report.pdf#page=1` for a comment."""
    return shlex.split(re.sub(r"\s#.*", "", line))


def prepare_folder(folder: Path, checkpoint: Path, bundle: Path, data: Path) -> None:
    """Makes a folder look as a reader's checkout does after the demo, with files to embed."""
    demo = folder / "runs/demo"
    for name, source in (("checkpoint", checkpoint), ("bundle", bundle), ("data", data)):
        shutil.copytree(source, demo / name)
    (folder / "examples").symlink_to(ROOT / "examples")
    noise = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    write_video(folder / "clip.mp4", 12)
    Image.new("RGB", (120, 160), "white").save(folder / "report.pdf")


def run_in_a_process(block: Block, folder: Path) -> None:
    """Runs a block as a reader does: installed programs, a new interpreter."""
    if block.language == "python":
        _run([sys.executable, "-c", block.text], folder)
        return
    for line in block.lines:
        program, *arguments = arguments_of(line)
        _run([str(Path(sys.executable).parent / program), *arguments], folder)


def run_here(block: Block, folder: Path) -> None:
    """Runs a block with the programs in this process, which saves importing PyTorch each time.

    The working directory must be `folder`.
    """
    if block.language == "python":
        _run([sys.executable, "-c", block.text], folder)
        return
    for line in block.lines:
        program, *arguments = arguments_of(line)
        if program in PROGRAMS:
            assert entry_point(program)(arguments) == 0, line
        else:
            _run([sys.executable, "-m", program, *arguments], folder)


def entry_point(program: str):  # type: ignore[no-untyped-def]
    """Returns the function that a program's pyproject.toml names."""
    folder = {"lame-runtime": "runtime", "lame-train": "training", "lame-export": "lame_export"}
    text = (ROOT / folder[program] / "pyproject.toml").read_text(encoding="utf-8")
    (target,) = re.findall(rf'^{program} = "(.+)"$', text, re.MULTILINE)
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    outcome = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert outcome.returncode == 0, f"{command}\n{outcome.stdout}\n{outcome.stderr}"
