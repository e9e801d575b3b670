"""A side in a process of its own, which waits for commands while the others run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = dict[str, Any]
_MARK = "answer: "
"""Prefix of answers on stdout, where libraries print as well."""


class SideProcess:
    """A side that has loaded the model.

    Args:
        side: its name.
        folder: the benchmark's folder.

    Raises:
        RuntimeError: the side ended before it answered; its own messages are on stderr.
    """

    def __init__(self, side: str, folder: Path) -> None:
        self.side = side
        self._process = subprocess.Popen(
            [sys.executable, __file__, side, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def ask(self, command: str, workload: str) -> Answer:
        """Returns the answer to "embed", "time" or "peak"."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\t{workload}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Answer:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(_MARK):
                answer: Answer = json.loads(line.removeprefix(_MARK))
                return answer
        status = self._process.wait()
        raise RuntimeError(f"{self.side} exited with {status} before it answered; see stderr")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def time_to_first_vector(side: str, folder: Path) -> float:
    """Returns the seconds from the start of a process to the vector of a short text."""
    start = time.perf_counter()
    with SideProcess(side, folder) as process:
        process.ask("first", "")
        return time.perf_counter() - start


def serve(side: str, folder: Path) -> None:
    """Loads the side, and answers commands from stdin until it closes."""
    from bench_inputs import Workload, read_workloads
    from bench_sides import SIDES
    from lame_runtime.machine.memory import peak_memory

    embed = SIDES[side][0](folder)
    _say({})
    for line in sys.stdin:
        command, name = line.rstrip("\n").split("\t")
        if command == "first":
            embed(Workload("", ["seven"], 1))
            _say({})
        elif command == "peak":
            _say({"bytes": peak_memory()})
        else:
            work = read_workloads(folder)[name]
            start = time.perf_counter()
            vectors = embed(work)
            seconds = time.perf_counter() - start
            _say(
                {
                    "seconds": seconds,
                    **({"vectors": vectors.tolist()} if command == "embed" else {}),
                }
            )


def _say(answer: Answer) -> None:
    print(f"\n{_MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
