"""`lame-export`: bundle, engine, verify, bisect, demo."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from lame_runtime.backends._tensorrt import MODULES, load_tensorrt
from lame_runtime.cli import path, run_command
from lame_runtime.errors import InputError

from lame_export import __version__
from lame_export.bundle_command import add as add_bundle
from lame_export.bundle_command import run as run_bundle
from lame_export.engine.command import add as add_engine

GRAPH_EXTRA = "pip install 'lame-export[graph]'"
FROM_EXTRA = frozenset({"torch", "onnx", "onnx_ir", "onnxruntime", "lame_training", "rich", "matplotlib"})


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 a check failed, 2 wrong use or bad input)."""
    return run_command(_parser(), arguments, "no bundle was left")


def _needing_graph_extra(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The command, with one line where what it imports comes with the extra that is not installed."""

    def checked(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in FROM_EXTRA:
                raise
            raise InputError(f"{options.command} needs {error.name}: {GRAPH_EXTRA}") from None

    return checked


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lame-export", description="Exports LaME checkpoints to verified ONNX bundles and builds engines."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    add_bundle(commands).set_defaults(run=_needing_graph_extra(run_bundle))
    add_engine(commands)

    verify = commands.add_parser("verify", help="the certificate anew, against the checkpoint")
    verify.add_argument("bundle", type=path)
    verify.add_argument("--against", type=path, required=True, metavar="CHECKPOINT")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_needing_graph_extra(_verify))

    bisect = commands.add_parser("bisect", help="where a graph leaves PyTorch, layer by layer, and what brings it back")
    bisect.add_argument("bundle", type=path)
    bisect.add_argument("checkpoint", type=path)
    bisect.add_argument("--graph", default="int8", help="one of the bundle's (int8)")
    bisect.add_argument("--inputs", type=int, default=4, metavar="N", help="golden inputs of each modality (4)")
    bisect.add_argument("--module", choices=MODULES, help="run the graph on the GPU by TensorRT; without it on ONNX Runtime")
    bisect.add_argument("--plot", type=path, metavar="PNG", help="also draw the error against depth")
    bisect.add_argument("--json", action="store_true", help="print every error as JSON")
    bisect.set_defaults(run=_needing_graph_extra(_bisect))

    demo = commands.add_parser("demo", help="data, training, export, search and a page, in DIR")
    demo.add_argument("dir", type=path)
    demo.add_argument("--recipe", default="digits", help="digits, or digits-tiny for a look in a minute")
    demo.set_defaults(run=_needing_graph_extra(_demo))
    return parser


def _verify(options: argparse.Namespace) -> int:
    from lame_export.recheck import recheck

    rows = recheck(options.bundle, options.against)
    failed = [row for row in rows if row.passed is False]
    if options.json:
        print(json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False))
    else:
        for row in rows:
            mark = {True: "ok", False: "FAILED", None: ""}[row.passed]
            print(f"{row.comparison:42} {row.graph:9} {row.modality:16} {row.describe()}  {mark}".rstrip())
        print(f"{len(rows) - len(failed)} of {len(rows)} rows hold")
    return 1 if failed else 0


def _bisect(options: argparse.Namespace) -> int:
    from lame_export.bisect.compare import bisect
    from lame_export.bisect.report import draw, table

    trt = None if options.module is None else load_tensorrt(options.module)
    found = bisect(options.bundle, options.checkpoint, options.graph, options.inputs, trt)
    if options.plot is not None:
        draw(found, options.plot)
    print(json.dumps(found.to_json(), indent=1) if options.json else table(found))
    return 0 if all(each.passed for each in found.modalities) else 1


def _demo(options: argparse.Namespace) -> int:
    from lame_export.demo import run_demo

    run_demo(options.dir, options.recipe)
    return 0


if __name__ == "__main__":
    sys.exit(main())
