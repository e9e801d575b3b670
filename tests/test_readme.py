"""The README's commands run as they stand, on the shared tiny artefacts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import write_video

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "make ": "runs this very test, or the demo at full size (tests/export/test_demo.py runs it small)",
    "python3.11 ": "sets up an environment",
    "OMP_NUM_THREADS=1 python -m pytest": "runs this very test",
    "pip ": "installs",
    "for v in ": "installs",
    "lame-export demo": "tests/export/test_demo.py",
    "lame-train run digits --out": "five minutes; tests/training/test_runs.py runs the tiny recipe",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


(BACKBONE,) = [block.splitlines() for block in blocks("sh") if "sample_backbone" in block]
LAYOUTS = [line for block in blocks("sh") for line in block.splitlines() if "runs/layouts" in line or "runs/mmeb-v2" in line]
"""Commands that build on each other."""
COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line and line not in (*BACKBONE, *LAYOUTS)]
RUN = [line for line in COMMANDS if not line.startswith(tuple(ELSEWHERE))]


@pytest.fixture
def workplace(checkpoint: Path, exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as the README's reader has it after the demo."""
    demo = tmp_path / "runs/demo"
    for name, source in (("checkpoint", checkpoint), ("bundle", exported), ("data", data)):
        shutil.copytree(source, demo / name)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", RUN)
def test_a_command_of_the_readme_runs(command: str, workplace: Path) -> None:
    """Exit code 0."""
    run(command)


def run(command: str) -> None:
    program, *arguments = command.split("  #")[0].split()
    done = subprocess.run([str(Path(sys.executable).parent / program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_lines_that_bring_a_backbone_run(workplace: Path) -> None:
    """One after the other, with a video and a PDF at hand."""
    write_video(workplace / "clip.mp4", 12)
    Image.new("RGB", (120, 160), "white").save(workplace / "report.pdf")
    for command in BACKBONE:
        run(command)
    assert np.load(workplace / "v.npy").shape == (4, 64)


def test_the_lines_that_bring_data_and_suites_run(workplace: Path) -> None:
    """Published layouts, a mixture of them, and MMEB-V2 on the bundle."""
    for command in LAYOUTS:
        run(command)
    assert (workplace / "runs/mixed/config.json").is_file()
    assert (workplace / "runs/scores/report.json").is_file()


def test_the_python_of_the_readme_runs(workplace: Path) -> None:
    """In a process of its own."""
    for code in blocks("python"):
        subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_shows_commands_worth_testing() -> None:
    """The filter above leaves the runtime's four, two evaluations, export, verify, bisect, engine and paradigms."""
    assert len(RUN) == 11


def test_every_make_target_named_exists() -> None:
    """And the Makefile explains each."""
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check", "ablation", "paradigms", "realsize", "help"):
        assert re.search(rf"^{target}:.*## ", makefile, re.MULTILINE)


def test_every_link_and_path_leads_somewhere() -> None:
    """Files the README links to, and folders and modules of its tree."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    (tree,) = [text for language, text in re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE) if not language]
    folder = ROOT
    for line in tree.splitlines():
        names = re.match(r"\s*(\S+/|(?:\S+\.py ?)+)", line)
        assert names, line
        base = ROOT if not line.startswith(" ") else folder
        for name in names[1].split():
            assert (base / name).exists(), line
        if not line.startswith(" "):
            folder = ROOT / names[1].strip()
