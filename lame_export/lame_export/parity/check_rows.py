"""Makes the certificate rows of checkers that read a graph's files."""

from __future__ import annotations

from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.certificate import Result
from lame_runtime.parity import gates
from lame_runtime.parity.gates import judge


def check_rows(graph: str, findings: dict[str, list[str]]) -> list[Result]:
    """Returns one row per checker over the files of a graph.

    Args:
        graph: name of the graph.
        findings: the problems that each checker reported, by name of the checker.
    """
    rows = []
    for checker, problems in findings.items():
        # one problem is enough to act on; the count tells how many there are
        reason = f"first: {problems[0]}" if problems else ""
        figure = {"problems": len(problems)}
        rows.append(judge(checker, graph, "files", len(PARTS), gates.CHECKED, figure, reason))
    return rows
