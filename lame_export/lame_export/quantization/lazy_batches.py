"""Calibration inputs in batches that are prepared while they are read, few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lame_runtime.batching import MAX_TOKENS, plan_batches
from lame_runtime.contract.batch import Batch, assemble
from lame_runtime.contract.preparer import Prepared, Preparer

from lame_export.parity.calibration_inputs import RoleInput
from lame_export.parity.made_inputs import sampled

BATCH_SIZE = 32
WINDOW_BYTES = 256 << 20
"""Bytes of the frames that are prepared and batched together: 85 pictures of a megapixel."""


class LazyBatches:
    """Batches of inputs, each with its modality; prepared anew whenever they are iterated over.

    Args:
        inputs: the inputs by modality. Batches are of one modality, so that one with few tokens
            counts as much as one with many.
        preparer: the contract and tokenizer.
    """

    def __init__(self, inputs: Mapping[str, Sequence[RoleInput]], preparer: Preparer) -> None:
        self._inputs, self._preparer = inputs, preparer

    def __iter__(self) -> Iterator[tuple[str, Batch]]:
        contract = self._preparer.contract
        for modality, entries in self._inputs.items():
            for window in self._windows(entries):
                for rows in plan_batches(window, BATCH_SIZE, max_tokens=MAX_TOKENS):
                    yield modality, assemble([window[row] for row in rows], contract)

    def _windows(self, entries: Sequence[RoleInput]) -> Iterator[list[Prepared]]:
        """Yields consecutive inputs that take up to `WINDOW_BYTES` prepared, or a single one."""
        window: list[Prepared] = []
        held = 0
        for role, item in entries:
            prepared = self._preparer(sampled(item, self._preparer), role)
            size = sum(visual.frames.nbytes for visual in prepared.visuals)
            if window and held + size > WINDOW_BYTES:
                yield window
                window, held = [], 0
            window.append(prepared)
            held += size
        if window:
            yield window
