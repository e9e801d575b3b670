"""The harness notices every fault that is planted, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from fuzz.campaign import cases, run_counts, run_minutes
from fuzz.case import from_json, placed, to_json
from fuzz.guard.pool import Pool
from fuzz.guard.worker import Limits
from fuzz.kinds.registry import all_kinds
from fuzz.outcome import FAULTS as FAULT_VERDICTS
from fuzz.outcome import Outcome
from fuzz.planted import FAULTS, HARMLESS, Planted
from fuzz.seed_files import read_seeds, write_seed
from fuzz.smaller import smaller

LIMITS = Limits(seconds=1.0, megabytes=100)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One worker for planted cases, with tight limits."""
    with Pool({"planted": Planted()}, limits=LIMITS) as running:
        yield running


@pytest.mark.parametrize("action", FAULTS)
def test_a_planted_fault_is_noticed(action: str, pool: Pool) -> None:
    """Each fault gets its verdict, and the worker serves the next case."""
    outcome = pool.one("planted", {"do": action, "text": "x" * 200})
    assert outcome.verdict == FAULTS[action], outcome
    assert outcome.is_fault
    assert pool.one("planted", {"do": "answer"}).verdict == "vector"


@pytest.mark.parametrize("action", HARMLESS)
def test_what_is_allowed_is_no_fault(action: str, pool: Pool) -> None:
    """Answers, refusals, and files of the working folder are not faults."""
    outcome = pool.one("planted", {"do": action})
    assert outcome.verdict == ("refused" if action == "refuse" else "vector"), outcome


def test_every_fault_verdict_has_a_control() -> None:
    """Every fault verdict is given to at least one planted fault."""
    assert set(FAULTS.values()) == set(FAULT_VERDICTS)


def test_cases_behind_a_fault_are_still_run(pool: Pool) -> None:
    """A worker that was ended and started again gets the rest of its cases."""
    actions = ["answer", "abort", "refuse", "sleep", "answer"]
    batch = [("planted", {"do": action}) for action in actions]
    verdicts = [outcome.verdict for _, _, outcome in pool.run(iter([batch]))]
    assert verdicts == ["vector", "died", "refused", "hang", "vector"]


def test_a_fault_is_found_once_and_counted_often() -> None:
    """A campaign reports one finding for equal faults, and its table counts every case."""
    report = run_counts({"planted": Planted()}, {"planted": 30}, "1", limits=LIMITS)
    assert report.faults == 0
    for _ in range(3):
        report.add("planted", {"do": "raise"}, Outcome("raw", "ValueError: x", "a.py:f:1"))
    assert [finding.count for finding in report.findings.values()] == [3]
    assert "| planted | 33 |" in report.table()
    assert report.to_json()["kinds"]["planted"]["raw"] == 3


def test_a_campaign_ends_after_its_minutes() -> None:
    """Every kind of it has been tried."""
    report = run_minutes({"planted": Planted()}, 0.01, "1", jobs=1, limits=LIMITS)
    assert report.tallies["planted"].tried > 0


def test_cases_depend_on_the_seed_alone() -> None:
    """Two objects of a kind generate equal cases, and another seed generates others."""
    for name, kind in all_kinds().items():
        first = list(islice(cases(kind, "1"), 12))
        assert first == list(islice(cases(all_kinds()[name], "1"), 12)), name
        assert first != list(islice(cases(kind, "2"), 12)), name
        assert [from_json(to_json(case)) for case in first] == first, name


def test_a_case_is_cut_down_while_its_fault_stays(tmp_path: Path) -> None:
    """Pieces that the fault does not need are gone, and the seed file holds the rest."""
    case = {"data": b"a" * 500 + b"!" + b"b" * 500, "edits": [1, 2, 3]}
    small = smaller(case, lambda case: b"!" in case["data"] and 2 in case["edits"])
    assert len(small["data"]) < 40
    assert small["edits"] == [2]
    path = write_seed("media", small, Outcome("raw", "ValueError: x"), tmp_path)
    assert [(kind, case) for kind, _, case in read_seeds(tmp_path)] == [("media", small)]
    assert path.name.startswith("raw-valueerror-x-")


def test_a_case_names_no_folder_of_the_machine() -> None:
    """The forbidden folder's name is replaced in texts, bytes and keys, and texts are repeated."""
    case = {"a": ["{elsewhere}/x", b"{elsewhere}"], "b": {"repeat": ["ab", 2]}}
    assert placed(case, "/e") == {"a": ["/e/x", b"/e"], "b": "abab"}
