"""`lame-runtime info`: shows the contents of a bundle and the backend that would run here."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    loading_options,
)
from lame_runtime.errors import LameError, printable

if TYPE_CHECKING:
    from lame_runtime.contract.rules import Contract

EXAMPLE = """
lame-runtime info bundle
lame-runtime info bundle --backend tensorrt --json
"""


def add(commands: Any) -> None:
    """Adds the command `info` to the program."""
    parser = add_command(
        commands, "info", "show what a bundle holds and what would run here", _info, EXAMPLE
    )
    add_bundle(parser)
    add_graph(parser)
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")
    add_loading(parser)


def _info(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy
    from lame_runtime.bundle.bundle import Bundle
    from lame_runtime.bundle.certificate import read_certificate
    from lame_runtime.contract.rules import Contract

    bundle = Bundle.open(options.bundle)
    contract = Contract.load(options.bundle / "contract.json")
    certificate = read_certificate(options.bundle)
    facts = {
        **asdict(bundle.manifest.model),
        "format_version": bundle.manifest.format_version,
        "pooled": _pooled(contract),
        "max_tokens": contract.tokens.max_length,
        "pixels": [contract.images.min_pixels, contract.images.max_pixels],
        "frames": {"per_second": contract.videos.fps, "at_most": contract.videos.max_frames},
        "limits": {"visuals": contract.limits.visuals, "patches": contract.limits.patches},
        "roles": contract.prompt.roles,
        "graphs": {graph: bundle.size(graph) for graph in bundle.graphs},
        "certificate": {
            "passed": certificate.passed,
            "rows": len(certificate.rows),
            "date": certificate.environment.get("date", "unknown"),
        },
        "here": _what_runs(options),
    }
    # one line after the other, because line breaks are not printable
    lines = _as_lines(str(options.bundle), facts)
    print(json.dumps(facts, indent=2) if options.json else "\n".join(map(printable, lines)))
    return 0


def _pooled(contract: Contract) -> str:
    """Returns what a vector is made from."""
    tokens = contract.tokens
    if not tokens.has_embed:
        return "from the states of the prompt in one pass"
    return f"from {tokens.n_reason} reason tokens and [EMBED] in one pass"


def _what_runs(options: argparse.Namespace) -> dict[str, str]:
    """Returns backend, graph and reason of loading the bundle as `embed` would."""
    from lame_runtime.encoder import Encoder
    from lame_runtime.loading import load

    # without the golden vectors, which take about a minute on new plans
    loading = replace(loading_options(options), prove_plans=False)
    try:
        with load(options.bundle, loading, Encoder) as encoder:
            return {
                "backend": encoder.backend.name,
                "graph": encoder.graph,
                "reason": encoder.reason,
            }
    except LameError as error:
        # the facts about the bundle are still shown if no backend can run it
        return {"backend": "nothing runs", "graph": "", "reason": str(error)}


def _as_lines(name: str, facts: dict[str, Any]) -> list[str]:
    low, high = facts["pixels"]
    frames, limits, here = facts["frames"], facts["limits"], facts["here"]
    certificate = facts["certificate"]
    verdict = "passed" if certificate["passed"] else "FAILED"
    return [
        f"{name}: {facts['family']}, {facts['parameters']:,} parameters",
        f"vectors      {facts['dim']} values, {facts['pooled']}",
        f"inputs       text up to {facts['max_tokens']} tokens; "
        f"pictures resized to {low:,}–{high:,} pixels",
        f"             videos at {frames['per_second']:g} frames a second, "
        f"{frames['at_most']} frames at most",
        f"             {limits['visuals']} pictures and videos, "
        f"{limits['patches']:,} patches in one input at most",
        *(
            f"graph        {graph:9} {size / 1e6:8.2f} MB"
            for graph, size in facts["graphs"].items()
        ),
        f"certificate  {verdict}, {certificate['rows']} rows, {certificate['date']}",
        f"here         {here['backend']}: {here['reason']}",
    ]
