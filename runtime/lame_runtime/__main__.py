"""`lame-runtime`: embed, info, verify, bench."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lame_runtime import __version__
from lame_runtime.cli import path, run_command
from lame_runtime.contract.vectors import PRECISIONS
from lame_runtime.errors import InputError, LameError
from lame_runtime.opening import BACKENDS


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 done, 1 a check failed, 2 wrong use or bad input)."""
    return run_command(_parser(), arguments, "nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lame-runtime", description="Embeds texts, pictures and videos from a LaME bundle, without PyTorch."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, run: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("bundle", type=path, help="the folder lame-export wrote")
        added.add_argument("--backend", default="auto", choices=BACKENDS)
        added.add_argument("--engines", type=path, help="where TensorRT plans lie; without it in the bundle or the user's cache")
        added.add_argument("--trust-plans", action="store_true", help="load TensorRT plans that were not built here; a plan is code")
        added.add_argument("--threads", type=int, help="CPU threads; all cores without it")
        added.add_argument("--json", action="store_true", help="machine-readable output")
        added.set_defaults(run=run)
        return added

    embed = command("embed", "pictures, videos, PDFs and texts to vectors", _embed)
    embed.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="a picture, a video, a PDF (a.pdf#page=2 for one page), a folder of them, a .jsonl file, or - for JSONL on stdin",
    )
    embed.add_argument("--text", action="append", default=[], help="a text; may be repeated")
    embed.add_argument("-o", "--output", type=path, required=True, help="(n, dim) .npy file, rows in input order: paths, then texts")
    embed.add_argument("--graph", help="one of the bundle's: fp32, fp16, int8, int8-cpu, w8-cpu, w4-cpu")
    embed.add_argument("--role", help="query or document: adds the contract's instruction of that role")
    embed.add_argument("--instruction", help="an instruction for every input that brings none")
    embed.add_argument("--batch-size", type=int, default=32)
    embed.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    embed.add_argument("--max-pixels", type=int, help="pixels of a picture or a video's frame after resizing, instead of the contract's")
    embed.add_argument("--max-frames", type=int, help="frames sampled from a video, instead of the contract's")
    embed.add_argument("--fps", type=float, help="frames sampled per second of video, instead of the contract's")
    embed.add_argument("--max-input-pixels", type=int, help="pixels of all pictures and videos of one input, instead of the contract's")
    embed.add_argument("--map-weights", action="store_true", help="leave the weights on the disk (CPU): little memory, half the speed")
    embed.add_argument("--truncate-dim", type=int, help="keep only so many leading values of each vector")
    embed.add_argument("--precision", default="float32", choices=PRECISIONS, help="fewer bits; binary and ubinary hold eight values a byte")

    info = command("info", "what a bundle holds and what would run here", _info)
    info.add_argument("--graph", help="one of the bundle's: fp32, fp16, int8, int8-cpu, w8-cpu, w4-cpu")

    verify = command("verify", "the certificate's checks on this device", _verify)
    verify.add_argument("--graph", action="append", help="one graph; may be repeated; all without it")
    verify.add_argument("-o", "--output", type=path, help="also write this device's certificate (JSON)")

    bench = command("bench", "latency and throughput of every graph", _bench)
    bench.add_argument("--graph", action="append", help="one graph; may be repeated; all without it")
    bench.add_argument("--batch-size", type=int, default=32)
    bench.add_argument("--rounds", type=int, default=7)
    return parser


def _embed(options: argparse.Namespace) -> int:
    import numpy as np

    from lame_runtime.atomic import atomic_path
    from lame_runtime.encoder import Encoder
    from lame_runtime.sources import read_sources

    if not options.paths and not options.text:
        raise InputError("nothing to embed: name a picture, a folder or a .jsonl file, or give --text")
    if any(name != "-" and Path(name).resolve() == options.output.resolve() for name in options.paths):
        raise InputError(f"{options.output}: is also an input; choose another --output")
    encoder = Encoder.load(
        options.bundle,
        backend=options.backend,
        graph=options.graph,
        threads=options.threads,
        map_weights=options.map_weights,
        trust_plans=options.trust_plans,
        engines=options.engines,
    )
    with encoder, atomic_path(options.output) as fresh:  # a place that cannot be written is noticed before the work
        inputs = read_sources(options.paths, options.text, options.instruction)
        rows = encoder.stream(
            inputs,
            role=options.role,
            batch_size=options.batch_size,
            truncate_dim=options.truncate_dim,
            truncate=options.truncate,
            max_pixels=options.max_pixels,
            max_frames=options.max_frames,
            fps=options.fps,
            max_input_pixels=options.max_input_pixels,
            precision=options.precision,
        )
        if sys.stderr.isatty():
            from tqdm import tqdm

            rows = tqdm(rows, unit="input")
        found = list(rows)
        if not found:
            raise InputError(f"nothing to embed: {', '.join(options.paths)} holds no input")
        vectors = np.stack(found)
        with fresh.open("wb") as file:
            np.save(file, vectors)
    report = {
        "output": str(options.output),
        "shape": list(vectors.shape),
        "dtype": str(vectors.dtype),
        "graph": encoder.graph,
        "backend": encoder.backend.name,
    }
    size = f"{vectors.shape[0]} × {vectors.shape[1]} {vectors.dtype}"
    told = f"wrote {options.output}: {size}, graph {encoder.graph} on {encoder.backend.name}"
    print(json.dumps(report) if options.json else told)
    return 0


def _info(options: argparse.Namespace) -> int:
    from lame_runtime.bundle import Bundle
    from lame_runtime.contract.rules import Contract
    from lame_runtime.encoder import Encoder
    from lame_runtime.verify import read_certificate

    bundle = Bundle.open(options.bundle)
    contract = Contract.load(options.bundle / "contract.json")
    certificate = read_certificate(options.bundle)
    try:
        with Encoder.load(
            options.bundle,
            backend=options.backend,
            graph=options.graph,
            threads=options.threads,
            trust_plans=options.trust_plans,
            prove_plans=False,
            engines=options.engines,
        ) as encoder:
            chosen = {"backend": encoder.backend.name, "graph": encoder.graph, "reason": encoder.reason}
    except LameError as error:  # the facts are worth showing where nothing would run
        chosen = {"backend": "nothing runs", "graph": "", "reason": str(error)}
    sizes = {graph: bundle.size(graph) for graph in bundle.graphs}
    facts = {
        **bundle.manifest["model"],
        "format_version": bundle.manifest["format_version"],
        "max_tokens": contract.tokens.max_length,
        "pixels": [contract.images.min_pixels, contract.images.max_pixels],
        "frames": {"per_second": contract.videos.fps, "at_most": contract.videos.max_frames},
        "limits": {"visuals": contract.limits.visuals, "patches": contract.limits.patches},
        "roles": contract.prompt.roles,
        "graphs": sizes,
        "certificate": {"passed": certificate["passed"], "rows": len(certificate["rows"]), "date": certificate["environment"]["date"]},
        "here": chosen,
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"{options.bundle}: {facts['family']}, {facts['parameters']:,} parameters")
    print(f"vectors      {facts['dim']} values, from {facts['n_reason']} reason tokens and [EMBED] in one pass")
    print(f"inputs       text up to {facts['max_tokens']} tokens; pictures resized to {facts['pixels'][0]:,}–{facts['pixels'][1]:,} pixels")
    print(f"             videos at {contract.videos.fps:g} frames a second, {contract.videos.max_frames} frames at most")
    print(f"             {contract.limits.visuals} pictures and videos, {contract.limits.patches:,} patches in one input at most")
    for graph, size in sizes.items():
        print(f"graph        {graph:9} {size / 1e6:8.2f} MB")
    verdict = "passed" if certificate["passed"] else "FAILED"
    print(f"certificate  {verdict}, {len(certificate['rows'])} rows, {certificate['environment']['date']}")
    print(f"here         {chosen['backend']}: {chosen['reason']}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from lame_runtime.atomic import atomic_text
    from lame_runtime.verify import report, table, verify

    verified = verify(
        options.bundle, options.graph, options.backend, options.threads, trust_plans=options.trust_plans, engines=options.engines
    )
    outcome = report(verified)
    if options.output:
        atomic_text(options.output, json.dumps(outcome, indent=1, ensure_ascii=False) + "\n")
    failed = sum(each.today.passed is False for each in verified)
    if options.json:
        print(json.dumps(outcome, indent=1, ensure_ascii=False))
    else:
        print(table(verified))
        print(f"{len(verified) - failed} of {len(verified)} rows hold on this device ({outcome['backend']})")
    return 1 if failed else 0


def _bench(options: argparse.Namespace) -> int:
    from lame_runtime.bench import bench, table

    outcome = bench(
        options.bundle,
        options.graph,
        options.backend,
        options.threads,
        options.batch_size,
        options.rounds,
        trust_plans=options.trust_plans,
        engines=options.engines,
    )
    print(json.dumps(outcome, indent=2) if options.json else table(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
