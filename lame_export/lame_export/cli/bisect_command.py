"""`lame-export bisect`: finds the layer at which a graph deviates from PyTorch."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.backends.tensorrt.module import MODULES, load_tensorrt
from lame_runtime.cli.grammar import add_command, path

from lame_export.cli.graph_extra import needing_graph_extra

EXAMPLE = """
lame-export bisect bundle checkpoint --graph int8 --plot error.png
"""


def add(commands: Any) -> None:
    """Adds the command `bisect` to the program."""
    parser = add_command(
        commands,
        "bisect",
        "show where a graph leaves PyTorch, layer by layer, and what brings it back",
        needing_graph_extra("bisect", _bisect),
        EXAMPLE,
    )
    parser.add_argument("bundle", type=path, help="the bundle")
    parser.add_argument("checkpoint", type=path, help="the checkpoint that it was exported from")
    parser.add_argument("--graph", default="int8", help="graph of the bundle")
    parser.add_argument(
        "--inputs", type=int, default=4, metavar="N", help="golden inputs of each modality"
    )
    parser.add_argument(
        "--module",
        choices=MODULES,
        help="run the graph on the GPU by TensorRT (default: on ONNX Runtime)",
    )
    parser.add_argument(
        "--plot", type=path, metavar="PNG", help="also draw the error against depth"
    )
    parser.add_argument("--json", action="store_true", help="print every error as JSON")


def _bisect(options: argparse.Namespace) -> int:
    # deferred, so that `--help` works without PyTorch and ONNX
    from lame_runtime.cli.system.outputs import require_apart

    from lame_export.bisect.bisection import bisect
    from lame_export.bisect.report import draw, table

    require_apart({"plot": options.plot}, options.bundle, checkpoint=options.checkpoint)
    # before the bisection: a missing TensorRT must not fail after minutes of PyTorch
    trt = None if options.module is None else load_tensorrt(options.module)
    outcome = bisect(options.bundle, options.checkpoint, options.graph, options.inputs, trt)
    if options.plot is not None:
        draw(outcome, options.plot)
    print(json.dumps(outcome.to_json(), indent=1) if options.json else table(outcome))
    # scripts can rely on the exit code
    return 0 if all(modality.passed for modality in outcome.modalities) else 1
