"""Inputs of every type: texts of all scripts, dicts, pictures, nested content, names of files."""

from __future__ import annotations

import os
from random import Random

import numpy as np

from fuzz.case import Case
from fuzz.guard.worker import Room
from fuzz.kinds import values
from fuzz.kinds.embedding import Embedding
from fuzz.outcome import check_equal, check_vectors


class Inputs(Embedding):
    """Embeds the value of an expression.

    A case holds `input`, an expression. If it holds `same`, another expression, the two have one
    vector.
    """

    name = "inputs"
    share = 3.0
    slice_cases = 1000

    def generate(self, random: Random) -> Case:
        """Returns a case."""
        if random.random() < 0.25:
            return self._same(random)
        return {"input": values.value(random)}

    def _same(self, random: Random) -> Case:
        """Returns two ways to give one input."""
        # `content` keeps white space at the ends of a text, `text` does not
        word = repr(values.text(random).strip())
        pairs = (
            (word, f"{{'text': {word}}}"),
            (word, f"{{'content': [{word}]}}"),
            (word, f"Input({word})"),
            (f"{{'image': 'good.png', 'text': {word}}}", f"{{'image': PNG, 'text': {word}}}"),
            (f"{{'content': [Path('good.png'), {word}]}}", f"{{'image': [PNG], 'text': {word}}}"),
            ("{'video': 'good.mp4'}", "{'video': MP4}"),
            ("Path('good.png')", "unloaded_picture()"),
            (f"['long' * 20, {word}][1]", f"({word})"),
        )
        one, other = random.choice(pairs)
        return {"input": one, "same": other}

    def open(self, room: Room) -> None:
        """Prepares the names that expressions use."""
        super().open(room)
        self._names = values.namespace()

    def prepare(self, case: Case) -> None:
        """Writes the files that expressions name."""
        write_files(self._names)
        self._input = _evaluated(case["input"], self._names)
        self._same_input = _evaluated(case["same"], self._names) if "same" in case else None

    def run(self, case: Case) -> None:
        """Embeds the input, alone and beside another one."""
        vectors = self.encoder.encode(self._input)
        check_vectors(vectors, len(vectors), self.encoder.dim)
        if "same" in case:
            check_equal(vectors, self.embed(self._same_input))
        elif len(vectors) == 1 and isinstance(self._input, str | dict):
            # an input's vector does not depend on its batch mates
            both = self.embed(["another text that is longer", self._input], rows=2)
            check_equal(np.asarray(both[1:]), vectors)


def write_files(names: dict[str, object]) -> None:
    """Writes the files of the expressions into the working folder."""
    from pathlib import Path

    for name, key in (("good.png", "PNG"), ("good.mp4", "MP4"), ("good.pdf", "PDF")):
        if not Path(name).exists():
            Path(name).write_bytes(names[key])  # type: ignore[arg-type]
    for name in ("pipe.png", "pipe.mp4"):
        if not Path(name).exists():
            os.mkfifo(name)


def _evaluated(expression: str, names: dict[str, object]) -> object:
    try:
        return eval(expression, dict(names))
    except Exception as error:  # `Input` checks what it is given, and expressions may be nonsense
        from lame_runtime import LameError

        if isinstance(error, LameError):
            return "refused before the call"
        return "no value"
