"""`lame-runtime verify`: repeats the certificate's checks on this device."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    add_output,
    loading_options,
    output_path,
)
from lame_runtime.errors import printable

EXAMPLE = """
lame-runtime verify bundle
lame-runtime verify bundle --graph int8-cpu --junit report.xml
"""


def add(commands: Any) -> None:
    """Adds the command `verify` to the program."""
    parser = add_command(
        commands, "verify", "repeat the certificate's checks on this device", _verify, EXAMPLE
    )
    add_bundle(parser)
    # repeatable, because `nargs="+"` would also take a bundle that follows it
    add_graph(parser, several=True)
    add_output(parser, "also write this device's certificate (JSON)")
    parser.add_argument(
        "--junit",
        type=output_path,
        metavar="FILE",
        help="also write the rows as a JUnit XML report",
    )
    parser.add_argument(
        "--json", action="store_true", help="print this device's certificate as JSON"
    )
    add_loading(parser)


def _verify(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy and ONNX Runtime
    from lame_runtime.cli.system.outputs import require_apart
    from lame_runtime.files.atomic import atomic_text
    from lame_runtime.parity.junit import write_junit
    from lame_runtime.parity.verify import report, table, verify

    outputs = {"output": options.output, "junit": options.junit}
    require_apart(outputs, options.bundle, options.engines)
    rows = verify(options.bundle, options.graph, loading_options(options))
    outcome = report(rows)
    text = json.dumps(outcome, indent=1, ensure_ascii=False)
    if options.output:
        atomic_text(options.output, text + "\n")
    if options.junit:
        write_junit(rows, options.bundle.resolve().name, options.junit)
    # rows without a gate have `passed` None and cannot fail
    failed = sum(row.today.passed is False for row in rows)
    if options.json:
        # escaped, because a terminal would obey control characters
        print(json.dumps(outcome, indent=1))
    else:
        passed = len(rows) - failed
        summary = f"{passed} of {len(rows)} rows hold on this device ({outcome['backend']})"
        print("\n".join(map(printable, [*table(rows).split("\n"), summary])))
    return 1 if failed else 0
