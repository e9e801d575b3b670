"""A slice of every kind, and every fault that was ever found."""

from __future__ import annotations

import pytest

from fuzz.campaign import run_counts
from fuzz.guard.pool import Pool
from fuzz.kinds.registry import all_kinds
from fuzz.seed_files import FOLDER, read_seeds

KINDS = all_kinds()
GROUPS = sorted({kind.group for kind in KINDS.values()})


@pytest.mark.parametrize("group", GROUPS)
def test_no_case_of_the_slice_is_a_fault(group: str) -> None:
    """The first cases of every kind end in a vector or a refusal, in the same order every time."""
    members = {name: kind for name, kind in KINDS.items() if kind.group == group}
    counts = {name: kind.slice_cases for name, kind in members.items()}
    report = run_counts(members, counts, "slice")
    assert not [
        f"{finding.kind}: {finding.outcome}: {finding.case!r:.500}"
        for finding in report.findings.values()
    ]
    # kinds whose cases all end alike would show nothing
    assert all(tally.verdicts["refused"] for tally in report.tallies.values())


@pytest.mark.parametrize("group", GROUPS)
def test_no_seed_is_a_fault_again(group: str) -> None:
    """Cases that were faults once end in a vector or a refusal."""
    members = {name: kind for name, kind in KINDS.items() if kind.group == group}
    seeds = [(kind, name, case) for kind, name, case in read_seeds() if kind in members]
    with Pool(members) as pool:
        outcomes = {f"{kind}/{name}": pool.one(kind, case) for kind, name, case in seeds}
    assert not {name: outcome for name, outcome in outcomes.items() if outcome.is_fault}


def test_seeds_are_small_and_of_known_kinds() -> None:
    """A seed can be read, and a folder that no kind reads would be dead weight."""
    assert {kind for kind, _, _ in read_seeds()} <= set(KINDS)
    assert all(path.stat().st_size < 12_000 for path in FOLDER.glob("*/*.json"))
