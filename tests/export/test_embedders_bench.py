"""The comparison with other embedders runs, and all sides give the same vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "lame_export/benchmarks/embedders/bench.py"
SIDES = ("Sentence Transformers", "Hugging Face", "LaME, fp32-cpu")


def test_all_sides_give_the_vectors_of_hugging_face(tmp_path: Path) -> None:
    """A tiny model embeds texts, photos and both, alone and in batches."""
    folder = tmp_path / "bench"
    command = [sys.executable, str(BENCH), str(folder), "--size", "tiny", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--sides", *SIDES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads((folder / "figures.json").read_text())
    assert set(figures["sides"]) == set(SIDES)
    for work in figures["workloads"].values():
        assert all(side["cosine"] > 0.99999 for side in work["sides"].values())
        assert all(len(side["seconds"]) == 1 for side in work["sides"].values())
    for side in figures["sides"].values():
        assert all(side[name] for name in ("installed", "peak", "first"))
    assert done.stdout.strip() == (folder / "table.md").read_text().strip()
    assert done.stdout.count("\n| ") > len(figures["workloads"])
    assert (folder / "plot.png").stat().st_size > 10_000
