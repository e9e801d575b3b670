"""JSONL on the command line of `embed`."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np
from lame_runtime.cli.main import main

from fuzz.case import ELSEWHERE, Case
from fuzz.guard.worker import Room
from fuzz.kinds import values
from fuzz.kinds.base import TINY_BUNDLE
from fuzz.kinds.edits import VALUES, edited, edits
from fuzz.kinds.embedding import Embedding, run_command
from fuzz.kinds.inputs import write_files
from fuzz.media.damage import damaged
from fuzz.outcome import WrongError

_ROWS: tuple[Any, ...] = (
    "a text", {"text": "a"}, {"image": "good.png", "text": "a"},
    {"image": ["good.png", "good.png"]}, {"video": "good.mp4"},
    {"video": ["good.png", "good.png"], "fps": 2}, {"content": ["a", {"image": "good.png"}, "b"]},
    {"image": "good.pdf#page=1"}, {"text": "a", "instruction": "Find it."}, {"image": "pipe.png"},
    {"image": "data:image/png;base64,AAAA"}, {"image": "http://127.0.0.1/a.png"},
    {"image": "/dev/zero"},
)  # fmt: skip


class Rows(Embedding):
    """Embeds a JSONL file; a case holds `rows` (edited values) or the file's `data`."""

    name = "rows"
    share = 1.0
    slice_cases = 120

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        if random.random() < 0.25:
            lines = "".join(json.dumps(random.choice(_ROWS)) + "\n" for _ in range(3)).encode()
            other = b"\xef\xbb\xbf\xff\xfe[[[[{\x1b"
            return {"data": damaged(random, lines, other)}
        rows = [random.choice(_ROWS) for _ in range(random.choice((1, 1, 3)))]
        changes = edits(random, rows) if random.random() < 0.9 else []
        if random.random() < 0.2:
            rows = [random.choice(VALUES), values.text(random)]
            changes = []
        # whoever calls the command may name any file, so that opening it is no fault
        if ELSEWHERE in json.dumps([rows, changes]):
            rows, changes = ["a"], []
        return {"rows": rows, "edits": changes}

    def open(self, room: Room) -> None:
        """Runs the command once, so that all is imported."""
        super().open(room)
        self._names = values.namespace()
        self.prepare({"rows": ["a"], "edits": []})
        self.run({})
        self.clean()

    def prepare(self, case: Case) -> None:
        """Writes the rows."""
        write_files(self._names)
        data = case.get("data")
        if data is None:
            # a copy, because edits change the value
            rows = json.loads(json.dumps(case["rows"]))
            text = edited(rows, case["edits"])
            data = _lines(text).encode("utf-8", "surrogatepass")
        (self.room.work / "rows.jsonl").write_bytes(data)

    def run(self, case: Case) -> None:
        """Runs `lame-runtime embed` and reads what it wrote."""
        output = self.room.work / "vectors.npy"
        command = ["embed", str(TINY_BUNDLE), "rows.jsonl", "--output", output.name]
        try:
            run_command(main, [*command, "--backend", "onnxruntime", "--threads", "1"])
        except BaseException:
            if output.exists():
                raise WrongError("refused, but vectors were written") from None
            raise
        if not np.isfinite(np.load(output)).all():
            raise WrongError("not finite")


def _lines(text: str) -> str:
    """Returns a JSON list as lines, and any other text unchanged."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text.strip("[]")
    if not isinstance(content, list):
        return text
    return "".join(json.dumps(row) + "\n" for row in content)
