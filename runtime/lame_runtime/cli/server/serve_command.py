"""`lame-runtime serve`: answers HTTP requests with vectors of one bundle."""

from __future__ import annotations

import argparse
import os
from typing import Any

from lame_runtime.cli.grammar import (
    add_bundle,
    add_command,
    add_graph,
    add_loading,
    loading_options,
    path,
    whole,
)
from lame_runtime.cli.system.streams import print_note
from lame_runtime.errors import UsageError, printable, shown
from lame_runtime.serving.settings import ServeOptions

EXAMPLE = """
lame-runtime serve bundle
lame-runtime serve bundle --host 0.0.0.0 --api-key "$KEY" --allow-urls images.example.com
"""
KEY_VARIABLE = "LAME_API_KEY"
_LOOPBACK = ("127.", "::1", "localhost")


def add(commands: Any) -> None:
    """Adds the command `serve` to the program."""
    parser = add_command(
        commands, "serve", "answer HTTP requests with vectors (OpenAI's API)", _serve, EXAMPLE
    )
    add_bundle(parser)
    add_graph(parser)
    parser.add_argument("--host", default=ServeOptions.host, help="address to listen at")
    parser.add_argument(
        "--port", type=whole, default=ServeOptions.port, help="port; 0 takes a free one"
    )
    parser.add_argument(
        "--index", type=path, help="an index that index wrote: adds /v1/search and a search page"
    )
    parser.add_argument("--name", help="name of the model (default: the folder's)")
    _add_limits(parser)
    add_loading(parser, with_workers=False)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("access and limits")
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"a key that clients must send, may be repeated (default: that of {KEY_VARIABLE})",
    )
    group.add_argument(
        "--allow-urls",
        action="append",
        default=[],
        metavar="HOST",
        help="a host (HOST:PORT for another port) that pictures may be downloaded from, may be "
        "repeated (default: none)",
    )
    group.add_argument("--allow-video", action="store_true", help="read videos")
    for name, text in (
        ("max-items", "items of one request"),
        ("max-body-mb", "megabytes of one request"),
        ("queue-items", "items in the server; more are refused"),
        ("batch-tokens", "tokens per run of the graph, padding included"),
    ):
        default = getattr(ServeOptions, name.replace("-", "_"))
        group.add_argument(f"--{name}", type=whole, default=default, help=text)
    group.add_argument(
        "--deadline",
        type=float,
        default=ServeOptions.deadline,
        metavar="SECONDS",
        help="time after which a request is given up",
    )


def _serve(options: argparse.Namespace) -> int:
    try:
        from lame_runtime.serving.web.http_server import HttpServer
    except ImportError as error:
        raise UsageError(
            f"serving needs the package {shown(error.name)}, which is not installed: "
            "pip install 'lame-runtime[serve]'"
        ) from None
    # deferred, so that `--help` does not wait for NumPy
    from lame_runtime.encoder import Encoder
    from lame_runtime.loading import load

    settings = _settings(options)
    index = None
    if options.index is not None:
        from lame_runtime.search import Index

        # before the bundle, which may take a minute
        index = Index.open(options.index)
        index.facts.query_role(None)
        options.graph = options.graph or index.facts.vectors.graph
    loading = loading_options(options, workers=1)
    server = HttpServer(
        settings,
        lambda: load(options.bundle, loading, Encoder),
        lambda line: print(printable(line), flush=True),
        index,
    )
    if not settings.api_keys and not options.host.startswith(_LOOPBACK):
        print_note(
            f"warning: everybody who reaches {shown(options.host)} may use this server; "
            f"set {KEY_VARIABLE}"
        )
    server.serve_until_signal()
    if server.was_cut_short:
        print_note("error: a second signal ended the server before it had answered all requests")
        return 1
    return 0


def _settings(options: argparse.Namespace) -> ServeOptions:
    keys = options.api_key or [key for key in [os.environ.get(KEY_VARIABLE)] if key]
    return ServeOptions(
        host=options.host,
        port=options.port,
        api_keys=tuple(keys),
        allow_urls=tuple(options.allow_urls),
        allow_video=options.allow_video,
        max_items=options.max_items,
        max_body_mb=options.max_body_mb,
        queue_items=options.queue_items,
        deadline=options.deadline,
        batch_tokens=options.batch_tokens,
        name=options.name or "",
    )
