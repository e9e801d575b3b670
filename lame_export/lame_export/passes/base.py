"""Defines a pass of the export plan, and the runner that checks each pass before and after it runs.

requires   the fields in `reads` are set, and the input files exist
run        does the work
ensures    the fields in `writes` are set, and the output files exist

After each pass the runner also checks that nothing else has changed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.certificate import PassCost
from lame_runtime.errors import ExportError, LameError
from lame_runtime.machine.memory import peak_memory, reset_peak_memory

from lame_export.state import ExportState

OnPass = Callable[[str, PassCost | None], None]
"""Receives the name of a pass, and None before the pass runs or what it took after."""


class Pass(ABC):
    """One step of the plan. Subclasses declare their fields and files and implement `run`."""

    name: ClassVar[str]
    """Name of the pass in messages and progress."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Fields of the state that must be set before the pass."""
    writes: ClassVar[tuple[str, ...]] = ()
    """Fields of the state that the pass sets; no others may change."""

    def applies(self, state: ExportState) -> bool:  # noqa: ARG002 - for subclasses
        """Returns whether the pass has work to do; a pass that does not apply is skipped."""
        return True

    def input_files(self, state: ExportState) -> Iterable[Path]:  # noqa: ARG002 - for subclasses
        """Returns the files that must exist before the pass."""
        return ()

    def output_files(self, state: ExportState) -> Iterable[Path]:  # noqa: ARG002 - for subclasses
        """Returns the files that must exist after the pass."""
        return ()

    def may_write(self, state: ExportState) -> Sequence[str]:
        """Returns patterns of the files that the pass may write, relative to the bundle.

        By default these are the output files themselves.
        """
        return [path.relative_to(state.folder).as_posix() for path in self.output_files(state)]

    def requires(self, state: ExportState) -> None:
        """Raises `ExportError` if a field or file that the pass reads is missing."""
        # list everything that is missing, so that a wrong order of passes can be fixed at once
        missing = [name for name in self.reads if not state.is_set(name)]
        missing += [str(path) for path in self.input_files(state) if not path.is_file()]
        if missing:
            raise ExportError(f"requires {', '.join(missing)}, which no earlier pass has set")

    @abstractmethod
    def run(self, state: ExportState) -> None:
        """Reads and changes the state, and writes files to the bundle."""

    def ensures(self, state: ExportState) -> None:
        """Raises `ExportError` if a field or file that the pass declares is missing."""
        # a pass that skips part of its work would otherwise fail only in a later pass
        missing = [name for name in self.writes if not state.is_set(name)]
        missing += [str(path) for path in self.output_files(state) if not path.is_file()]
        if missing:
            raise ExportError(f"did not make {', '.join(missing)}")


def run_passes(
    state: ExportState,
    plan: Sequence[Pass],
    on_pass: OnPass | None = None,
) -> None:
    """Runs passes in order, checks each of them before and after it runs, and measures it.

    Args:
        state: the state that the passes read and change.
        plan: the passes, in order.
        on_pass: called with the name of each pass and None before it runs, and with the name and
            what it took after it has run.

    Raises:
        ExportError: a pass failed, lacks what it requires, did not do what it promises, or changed
            what it does not declare. The message names the pass and those that ran before.
        LameError: the checkpoint, the data or the disk cannot be used. The class of the original
            error is kept, and the message names the passes as above.
    """
    finished: list[str] = []
    for step in plan:
        # such as the INT8 passes, if the bundle gets no INT8 graph
        if not step.applies(state):
            continue
        try:
            # inside the `try`, so that a missing input is reported with the name of the pass, too
            step.requires(state)
            if on_pass is not None:
                on_pass(step.name, None)
            before = state.snapshot()
            reset_peak_memory()
            start = time.perf_counter()
            step.run(state)
            cost = PassCost(step.name, time.perf_counter() - start, peak_memory())
            step.ensures(state)
            _check_changes(step, state, before)
        except LameError as error:
            # raise the same class, because exit codes and callers depend on it
            passed = ", ".join(finished) or "none"
            message = f"pass {step.name}: {error} (passed before: {passed})"
            raise type(error)(message) from error
        finished.append(step.name)
        state.passes.append(cost)
        if on_pass is not None:
            on_pass(step.name, cost)


def graph_files(state: ExportState, graphs: Iterable[str]) -> list[Path]:
    """Returns the paths of the ONNX files of the given graphs, two per graph."""
    return [state.path(part, graph) for graph in graphs for part in PARTS]


def _check_changes(step: Pass, state: ExportState, before: dict[str, object]) -> None:
    """Raises `ExportError` if a pass changed fields or files that it does not declare."""
    # without this check, a pass that overwrites another pass's file would go unnoticed until the
    # certificate reports the figures of the wrong graph
    after = state.snapshot()
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    patterns = step.may_write(state)
    # a graph's weights are stored beside it, in NAME.data
    patterns = [*patterns, *(f"{pattern}.data" for pattern in patterns)]
    undeclared = []
    for name in changed:
        if name.startswith("file "):
            path = name.removeprefix("file ")
            if not any(fnmatch(path, pattern) for pattern in patterns):
                undeclared.append(path)
        elif name not in step.writes:
            undeclared.append(name)
    if undeclared:
        raise ExportError(f"changed {', '.join(sorted(undeclared))}, which it does not declare")
