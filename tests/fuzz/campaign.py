"""Runs kinds for some minutes or for a number of cases, and reports what happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fuzz.case import Case
from fuzz.guard.pool import Named, Pool
from fuzz.guard.worker import Limits
from fuzz.kinds.base import Kind
from fuzz.outcome import FAULTS, VERDICTS, Outcome

BATCH = 20
"""Number of cases that a worker gets at once."""


@dataclass
class Finding:
    """Represents one fault.

    Attributes:
        kind: the kind's name.
        case: the first case that showed it.
        outcome: its outcome.
        count: number of cases that showed it.
    """

    kind: str
    case: Case
    outcome: Outcome
    count: int = 1


@dataclass
class Tally:
    """Counts the outcomes of one kind."""

    verdicts: Counter[str] = field(default_factory=Counter)
    megabytes: int = 0

    @property
    def tried(self) -> int:
        """Number of cases."""
        return sum(self.verdicts.values())


@dataclass
class Report:
    """Holds the outcome of a campaign.

    Attributes:
        tallies: the counts by kind.
        findings: one entry per fault, in order of occurrence.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, case: Case, outcome: Outcome) -> Finding | None:
        """Counts an outcome; returns a finding if it is the first of its fault."""
        tally = self.tallies.setdefault(kind, Tally())
        tally.verdicts[outcome.verdict] += 1
        tally.megabytes = max(tally.megabytes, outcome.megabytes)
        if not outcome.is_fault:
            return None
        key = f"{kind} {outcome.signature}"
        if key in self.findings:
            self.findings[key].count += 1
            return None
        self.findings[key] = Finding(kind, case, outcome)
        return self.findings[key]

    @property
    def faults(self) -> int:
        """Number of cases that ended in a fault."""
        return sum(tally.verdicts[name] for tally in self.tallies.values() for name in FAULTS)

    def table(self) -> str:
        """Returns the counts as a Markdown table."""
        titles = ("kind", "tried", *VERDICTS, "peak MB")
        rows = [
            (name, tally.tried, *(tally.verdicts[verdict] for verdict in VERDICTS), tally.megabytes)
            for name, tally in self.tallies.items()
        ]
        total = ["all", *(sum(row[column] for row in rows) for column in range(1, len(titles) - 1))]
        rows.append((*total, max((row[-1] for row in rows), default=0)))
        lines = [titles, ("---",) * len(titles)]
        lines += [(row[0], *(f"{figure:,}" for figure in row[1:])) for row in rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_json(self) -> dict[str, Any]:
        """Returns counts and findings as a dict that can be written as JSON."""
        return {
            "kinds": {
                name: {
                    "tried": tally.tried,
                    **{verdict: tally.verdicts[verdict] for verdict in VERDICTS},
                    "peak MB": tally.megabytes,
                }
                for name, tally in self.tallies.items()
            },
            "faults": [
                {
                    "kind": finding.kind,
                    "verdict": finding.outcome.verdict,
                    "text": finding.outcome.text,
                    "place": finding.outcome.place,
                    "count": finding.count,
                }
                for finding in self.findings.values()
            ],
        }


def cases(kind: Kind, seed: str) -> Iterator[Case]:
    """Yields the cases of a kind without end; case n depends on the seed and n alone."""
    number = 0
    while True:
        yield kind.generate(Random(f"{seed} {kind.name} {number}"))
        number += 1


def run_counts(
    kinds: dict[str, Kind],
    counts: dict[str, int],
    seed: str,
    *,
    jobs: int = 1,
    limits: Limits | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Runs a fixed number of cases of each kind of `counts`."""
    report = Report({name: Tally() for name in counts})
    for members in _groups({name: kinds[name] for name in counts}).values():
        streams = {name: cases(kind, seed) for name, kind in members.items()}
        left = {name: counts[name] for name in members}

        def batches(
            streams: dict[str, Iterator[Case]] = streams, left: dict[str, int] = left
        ) -> Iterator[list[Named]]:
            for name, stream in streams.items():
                while left[name] > 0:
                    count = min(BATCH, left[name])
                    left[name] -= count
                    yield [(name, next(stream)) for _ in range(count)]

        _run(report, members, batches(), jobs, limits, on_finding)
    return report


def run_minutes(
    kinds: dict[str, Kind],
    minutes: float,
    seed: str,
    *,
    jobs: int = 2,
    limits: Limits | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Runs the kinds for some minutes, each for its share of the time."""
    report = Report({name: Tally() for name in kinds})
    shares = sum(kind.share for kind in kinds.values())
    for members in _groups(kinds).values():
        part = sum(kind.share for kind in members.values()) / shares
        end = time.monotonic() + 60 * minutes * part

        def batches(members: dict[str, Kind] = members, end: float = end) -> Iterator[list[Named]]:
            streams = {name: cases(kind, seed) for name, kind in members.items()}
            spent = dict.fromkeys(members, 0.0)
            while time.monotonic() < end:
                # the kind that has had the least of its share is next
                name = min(spent, key=lambda name: spent[name] / members[name].share)
                start = time.monotonic()
                yield [(name, next(streams[name])) for _ in range(BATCH)]
                # with several workers the time is that of the whole pool, which is as good
                spent[name] += time.monotonic() - start + 1e-3

        _run(report, members, batches(), jobs, limits, on_finding)
    return report


def _run(
    report: Report,
    members: dict[str, Kind],
    batches: Iterator[list[Named]],
    jobs: int,
    limits: Limits | None,
    on_finding: Callable[[Finding], None] | None,
) -> None:
    with Pool(members, jobs, limits) as pool:
        for name, case, outcome in pool.run(batches):
            finding = report.add(name, case, outcome)
            if finding is not None and on_finding is not None:
                on_finding(finding)


def _groups(kinds: dict[str, Kind]) -> dict[str, dict[str, Kind]]:
    """Returns the kinds by the libraries that their workers load."""
    groups: dict[str, dict[str, Kind]] = {}
    for name, kind in kinds.items():
        groups.setdefault(kind.group, {})[name] = kind
    return groups
