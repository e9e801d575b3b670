"""The command line: `python -m fuzz --minutes 30`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from lame_runtime.errors import printable

from fuzz.campaign import Finding, Report, run_counts, run_minutes
from fuzz.guard.pool import Pool
from fuzz.guard.worker import Limits
from fuzz.kinds.registry import all_kinds
from fuzz.seed_files import FOLDER, write_seed
from fuzz.smaller import smaller


def main() -> int:
    """Runs a campaign; returns 1 if there was a fault."""
    # workers that are ended leave a semaphore behind, about which a helper process would warn
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"
    options = _options()
    kinds = all_kinds()
    if options.kinds:
        names = options.kinds.split(",")
        if unknown := [name for name in names if name not in kinds]:
            print(f"no kind {', '.join(unknown)}: use {', '.join(kinds)}", file=sys.stderr)
            return 2
        kinds = {name: kinds[name] for name in names}
    arguments = {"jobs": options.jobs, "limits": Limits(), "on_finding": _print_finding}
    if options.cases or options.slice:
        counts = {name: options.cases or kind.slice_cases for name, kind in kinds.items()}
        report = run_counts(kinds, counts, options.seed, **arguments)
    else:
        report = run_minutes(kinds, options.minutes, options.seed, **arguments)
    print(report.table())
    kinds, cases = len(report.findings), report.faults
    print(f"\n{kinds} different faults, shown by {cases:,} cases; seed {options.seed}")
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")
    if options.save:
        _save(report, options.save)
    return 1 if report.faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="time of all kinds together")
    parser.add_argument("--cases", type=int, default=0, help="cases of each kind, in place of time")
    parser.add_argument("--slice", action="store_true", help="the cases that the tests run")
    parser.add_argument("--kinds", default="", help="names of kinds, with commas between them")
    parser.add_argument("--seed", default="1", help="decides the cases")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--json", type=Path, help="write counts and faults to this file")
    parser.add_argument(
        "--save", type=Path, nargs="?", const=FOLDER, help="cut faults down and write them as seeds"
    )
    return parser.parse_args()


def _print_finding(finding: Finding) -> None:
    outcome = finding.outcome
    place = f" [{outcome.place}]" if outcome.place else ""
    line = f"{finding.kind}: {outcome.verdict}: {outcome.text}{place}\n    {finding.case!r:.400}"
    print(printable_lines(line), file=sys.stderr, flush=True)


def printable_lines(text: str) -> str:
    """Returns a text whose control characters are escaped, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _save(report: Report, folder: Path) -> None:
    """Cuts each fault's case down and writes it."""
    kinds = all_kinds()
    for finding in report.findings.values():
        with Pool({finding.kind: kinds[finding.kind]}) as pool:
            signature = finding.outcome.signature
            case = smaller(
                finding.case,
                lambda case, pool=pool, finding=finding, signature=signature: (  # type: ignore[misc]
                    pool.one(finding.kind, case).signature == signature
                ),
            )
        path = write_seed(finding.kind, case, finding.outcome, folder)
        print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
