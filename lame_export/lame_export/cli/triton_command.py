"""`lame-export triton`: writes a model repository for Triton Inference Server from a bundle."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lame_runtime.cli.grammar import GRAPH_NAMES, add_command, path, whole
from lame_runtime.options import BACKENDS

EXAMPLE = """
lame-export triton bundle models
lame-export triton bundle models --name search --graph int8-cpu --max-batch-size 64
"""


def add(commands: Any) -> None:
    """Adds the command `triton` to the program."""
    parser = add_command(
        commands,
        "triton",
        "write a bundle as a model of a Triton Inference Server repository",
        _triton,
        EXAMPLE,
    )
    parser.add_argument("bundle", type=path, help="the bundle")
    parser.add_argument("repository", type=path, help="folder of models, which may hold others")
    parser.add_argument(
        "--name", help="name of the model and its folder (default: the name of the bundle's folder)"
    )
    parser.add_argument(
        "--kind", choices=("cpu", "gpu"), default="cpu", help="device that the model runs on"
    )
    parser.add_argument(
        "--backend",
        choices=[name for name in BACKENDS if name != "auto"],
        help="what runs the graph (default: onnxruntime, or onnxruntime-gpu on a GPU)",
    )
    parser.add_argument(
        "--graph", metavar="GRAPH", help=f"graph of the bundle: {', '.join(GRAPH_NAMES)}"
    )
    parser.add_argument("--threads", type=whole, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--max-batch-size", type=whole, default=32, help="inputs that are embedded together"
    )
    parser.add_argument(
        "--max-queue", type=whole, default=256, help="requests that wait; more are refused"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time that a request may wait; then it is refused",
    )
    parser.add_argument(
        "--allow-video", action="store_true", help="take encoded videos, which FFmpeg decodes"
    )
    parser.add_argument(
        "--bundle-path",
        type=path,
        metavar="DIR",
        help="where the server finds the bundle, an absolute path (default: a copy in the model)",
    )
    parser.add_argument(
        "--bare-graphs",
        action="store_true",
        help="also write the parts of --graph as models NAME-vision and NAME-encoder, which take "
        "tensors",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _triton(options: argparse.Namespace) -> int:
    # deferred, so that `--help` does not wait for NumPy
    from lame_runtime.cli.system.outputs import require_apart

    from lame_export.triton.repository import write_model
    from lame_export.triton.serving import Serving

    require_apart({"repository": options.repository}, options.bundle)
    serving = Serving(
        name=options.bundle.resolve().name if options.name is None else options.name,
        kind=options.kind,
        backend=options.backend,
        graph=options.graph,
        threads=options.threads,
        max_batch_size=options.max_batch_size,
        max_queue=options.max_queue,
        timeout=options.timeout,
        allow_video=options.allow_video,
    )
    model = write_model(
        options.bundle,
        options.repository,
        serving,
        options.bundle_path,
        bare_graphs=options.bare_graphs,
    )
    if options.json:
        print(json.dumps({"folder": str(model), "name": serving.name}))
    else:
        print(f"wrote {model}: start tritonserver with --model-repository={options.repository}")
    return 0
