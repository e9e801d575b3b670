"""Embeds rows, any of which may be bad, without stopping at one."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lame_runtime.batching import plan_window
from lame_runtime.bulk.source.rows import Row
from lame_runtime.contract.batch import Floats, assemble
from lame_runtime.contract.fields.roles import require_role
from lame_runtime.contract.preparer import Prepared
from lame_runtime.contract.vectors import kept_width
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, first_line
from lame_runtime.isolation.batch_isolation import run_apart
from lame_runtime.isolation.probes import warm_up
from lame_runtime.options import EncodeOptions
from lame_runtime.preparation.windows import WindowReader

_INDEX = re.compile(r"^input \d+: ")


@dataclass(frozen=True)
class Block:
    """Rows with their vectors, in the order of the source."""

    rows: Sequence[Row]
    vectors: npt.NDArray[Any]
    """(m, width), those of the rows that have one."""
    errors: Sequence[str | None]
    """Why a row has no vector; None for the m rows that have one."""

    @property
    def has_vector(self) -> npt.NDArray[np.bool_]:
        """Which of the n rows have a vector, (n,)."""
        return np.array([error is None for error in self.errors], dtype=bool)


def embed_rows(encoder: Encoder, rows: Iterable[Row], options: EncodeOptions) -> Iterator[Block]:
    """Embeds an iterable of rows that may not fit in memory; yields blocks in its order.

    Vectors are those of `Encoder.stream`. A row that cannot be read, prepared or run has an error
    instead. If nothing of a window runs, a golden input decides whether the backend fails.

    Raises:
        BackendError, ProofError: the backend fails, whatever the input.
        UsageError: an option is out of range.
        Exception: what the iterable raised, after the blocks of the rows before.
    """
    # before the first row is read, as `Encoder.stream` does
    encoder.backend.require_own_process()
    require_role(encoder.preparer.contract.prompt, options.role_name)
    kept_width(options.truncate_dim, encoder.dim)
    preparer = encoder.preparer.with_budget(
        options.max_pixels, options.max_frames, options.fps, options.max_input_pixels
    )
    # rows that were read ahead and belong to no block yet
    waiting: deque[Row] = deque()
    failures: list[BaseException] = []

    def items() -> Iterator[Any]:
        try:
            for row in rows:
                waiting.append(row)
                yield row.item
        # raised below, once what was read before is embedded
        except Exception as error:
            failures.append(error)

    with WindowReader(items(), preparer, options, keep_errors=True) as reader:
        while outcomes := reader.next_outcomes():
            vectors, errors = _run(encoder, reader, outcomes, options)
            block = [waiting.popleft() for _ in outcomes]
            # the rows' bytes and the prepared inputs are of no use any more
            del outcomes
            yield Block(block, vectors, errors)
    if failures:
        raise failures[0]


def _run(
    encoder: Encoder,
    reader: WindowReader,
    outcomes: Sequence[Prepared | Exception],
    options: EncodeOptions,
) -> tuple[npt.NDArray[Any], list[str | None]]:
    """Returns the vectors of a window that there are, and the errors of all its rows."""
    errors: list[str | None] = [
        _message(outcome) if isinstance(outcome, Exception) else None for outcome in outcomes
    ]
    places = [row for row, error in enumerate(errors) if error is None]
    window = [outcome for outcome in outcomes if isinstance(outcome, Prepared)]
    vectors: dict[int, Floats] = {}

    def run(items: Sequence[Prepared]) -> Floats:
        return encoder.backend.run(assemble(items, encoder.preparer.contract))

    # the batches of `Encoder.stream`, so that vectors are equal to the bit
    for batch in plan_window(window, options, encoder.max_tokens):
        reader.read_ahead(len(batch))
        for index, vector in zip(batch, run_apart([window[i] for i in batch], run), strict=True):
            if vector is None:
                errors[places[index]] = "the model failed on this input, alone as well"
            else:
                vectors[places[index]] = vector
    # an input that nothing can embed and a lost device look the same until then
    if window and not vectors:
        encoder.backend.require_own_process()
        warm_up(encoder)
    raw = np.empty((len(vectors), encoder.dim), dtype=np.float32)
    # the order of the source, which that of the batches is not
    for place, row in enumerate(sorted(vectors)):
        raw[place] = vectors[row]
    return encoder.finish(raw, options), errors


def _message(error: Exception) -> str:
    if isinstance(error, InputError):
        return _INDEX.sub("", str(error), count=1)
    # a picture too large for this machine must not end the run
    if isinstance(error, MemoryError):
        return "there is not enough memory for the input"
    return f"the input cannot be read ({type(error).__name__}: {first_line(error)})"
