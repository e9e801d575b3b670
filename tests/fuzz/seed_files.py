"""Faults as files: `seeds/KIND/NAME.json`, which the tests replay."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from fuzz.case import Case, from_json, to_json
from fuzz.outcome import Outcome

FOLDER = Path(__file__).parent / "seeds"


def write_seed(kind: str, case: Case, outcome: Outcome, folder: Path = FOLDER) -> Path:
    """Writes a case whose fault should stay fixed; returns the file."""
    text = to_json(case)
    words = re.sub(r"[^a-z0-9]+", "-", f"{outcome.verdict} {outcome.text}".lower())[:40].strip("-")
    name = f"{words}-{hashlib.sha256(text.encode()).hexdigest()[:6]}.json"
    path = folder / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read_seeds(folder: Path = FOLDER) -> Iterator[tuple[str, str, Case]]:
    """Yields kind, name and case of every seed, sorted."""
    for path in sorted(folder.glob("*/*.json")):
        yield path.parent.name, path.stem, from_json(path.read_text(encoding="utf-8"))
