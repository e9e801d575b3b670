"""Kills `lame-runtime embed` at random moments, and goes on until the table is complete.

`python tests/bulk/kills.py --kills 20` prints a line for each kill, and fails if an id is lost,
repeated or changed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from lame_runtime.bulk.vector_table import vector_rows

EXAMPLES = Path(__file__).parents[2] / "examples"
CHILD = """
import sys
from lame_runtime.bulk.one_machine import corpus_run
from lame_runtime.cli.main import main

corpus_run.PART_ROWS = 16
sys.exit(main(sys.argv[1:]))
"""
"""The program with parts of 16 rows, so that there is something to interrupt."""


def write_corpus(folder: Path, rows: int) -> Path:
    """Writes a JSONL corpus in which each twentieth row is broken."""
    pictures = sorted((EXAMPLES / "pictures").glob("*.png"))
    broken = folder / "broken.png"
    broken.write_bytes(pictures[0].read_bytes()[:100])
    path = folder / "corpus.jsonl"
    lines = []
    for number in range(rows):
        picture = broken if number % 20 == 7 else pictures[number % len(pictures)]
        lines.append(json.dumps({"id": f"row{number}", "image": str(picture), "text": str(number)}))
    path.write_text("\n".join(lines) + "\n")
    return path


def command(corpus: Path, output: Path, *options: str) -> list[str]:
    """Returns the command line of the child."""
    words = ["embed", str(EXAMPLES / "tiny-bundle"), str(corpus), "-o", str(output)]
    return [sys.executable, "-c", CHILD, *words, "--batch-size", "1", *options]


def run_with_kills(corpus: Path, output: Path, kills: int, seed: int = 0) -> int:
    """Kills the program `kills` times after it has made progress; returns how often it began."""
    generator = random.Random(seed)
    parts = output.with_name(output.name + ".parts")
    for number in range(kills + 1):
        before = len(list(parts.glob("[0-9]*.parquet")))
        child = subprocess.Popen(
            command(corpus, output, "--resume"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if number < kills:
            # some are killed at once, most after a part or more
            wanted = before + generator.choice((0, 1, 1, 2))
            while child.poll() is None and len(list(parts.glob("[0-9]*.parquet"))) < wanted:
                time.sleep(0.002)
            time.sleep(generator.random() * 0.1)
            child.send_signal(signal.SIGKILL)
        _, errors = child.communicate(timeout=300)
        after = len(list(parts.glob("[0-9]*.parquet")))
        print(f"start {number}: {before} parts before, {after} after, exit {child.returncode}")
        if child.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(errors.decode())
    return kills + 1


def differences(first: Path, second: Path) -> list[str]:
    """Returns in what two tables differ: ids, their order, errors, or a bit of a vector."""
    tables = [pq.read_table(path) for path in (first, second)]
    names = [name for name in tables[0].column_names if name != "vector"]
    problems = [name for name in names if tables[0][name] != tables[1][name]]
    vectors = [vector_rows(table["vector"]) for table in tables]
    same = all(np.array_equal(*pair) for pair in zip(*vectors, strict=True))
    return problems + ["vector"] * (not same)


def main() -> int:
    """Runs the campaign and returns 1 if anything differs from an uninterrupted run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = write_corpus(folder, options.rows)
        run_with_kills(corpus, folder / "killed.parquet", options.kills, options.seed)
        subprocess.run(command(corpus, folder / "whole.parquet"), check=True)
        problems = differences(folder / "killed.parquet", folder / "whole.parquet")
    print("ids in = ids out, equal to the bit" if not problems else f"differ: {problems}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
