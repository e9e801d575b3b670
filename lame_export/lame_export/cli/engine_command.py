"""`lame-export engine`: builds TensorRT plans of a bundle's graphs, for this GPU or for others.

The command runs on the device, so it imports only lame-runtime and TensorRT.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.module import load_tensorrt
from lame_runtime.backends.tensorrt.plans import Build
from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.cli.grammar import add_command, add_output, path
from lame_runtime.contract import Contract, Preparer
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError, UsageError
from lame_runtime.loading import open_plans
from lame_runtime.options import LoadOptions
from lame_runtime.parity.on_device import require_proof

from lame_export.engine.build import BUILDABLE, build, build_with_fallbacks
from lame_export.engine.build_job import BuildJob
from lame_export.engine.network import Options
from lame_export.engine.profiles import (
    GIB,
    KINDS,
    Profiles,
    derive_profiles,
    read_profiles,
    widths_of,
)

EXAMPLE = """
lame-export engine bundle --graph fp16
lame-export engine bundle --graph int8 --module tensorrt_rtx --target sm86,sm120
"""
MOST_GIB = 1024
"""Upper limit of `--memory` and `--workspace`, in GiB."""


def add(commands: Any) -> None:
    """Adds the command `engine` to the program."""
    parser = add_command(
        commands,
        "engine",
        "build TensorRT plans, for this GPU or for named ones",
        _engine,
        EXAMPLE,
    )
    parser.add_argument("bundle", type=path, help="the folder that lame-export wrote")
    parser.add_argument("--graph", default="fp16", help="fp32, fp16 or int8")
    parser.add_argument(
        "--module",
        choices=["tensorrt", "tensorrt_rtx"],
        help="TensorRT's Python module (default: the first that is installed)",
    )
    parser.add_argument(
        "--target",
        help="compute capabilities such as sm86,sm120, with TensorRT-RTX (default: the GPU here)",
    )
    add_output(
        parser, "folder of the plans (default: BUNDLE/engines, or the user's cache)", metavar="DIR"
    )
    parser.add_argument("--json", action="store_true", help="print what was built as JSON")
    _add_building(parser)


def _add_building(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the builder."""
    group = parser.add_argument_group("building")
    group.add_argument(
        "--profile", default="latency", help="latency, throughput, or a JSON file of profiles"
    )
    group.add_argument(
        "--memory",
        type=float,
        default=2.0,
        metavar="GIB",
        help="GPU memory for activations, which bounds batches",
    )
    group.add_argument(
        "--workspace",
        type=float,
        metavar="GIB",
        help="GPU memory that a layer may use (default: all)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        metavar="0-5",
        help="effort of the builder (default: TensorRT's own)",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="plans that later versions of the same major one run, too",
    )
    group.add_argument(
        "--hardware-compatible", action="store_true", help="plans for every GPU from Ampere on"
    )
    group.add_argument(
        "--strip-weights",
        action="store_true",
        help="plans without weights, which are read from the bundle at load",
    )
    group.add_argument(
        "--fallback",
        action="store_true",
        help="build more precise plans if the golden vectors are not met",
    )
    group.add_argument("--rebuild", action="store_true", help="build again what is there")


def _engine(options: argparse.Namespace) -> int:
    bundle = _open(options)
    trt = load_tensorrt(options.module)
    job = BuildJob(
        bundle,
        options.graph,
        options.profile,
        _profiles(options, bundle),
        Options(
            optimization_level=options.optimization_level,
            workspace=None if options.workspace is None else int(options.workspace * GIB),
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            strip_weights=options.strip_weights,
        ),
        # None stores plans in the bundle, or in the user's cache if it is read-only
        out=options.output,
    )
    # plans for other GPUs cannot run here, so they are not checked either
    if options.target:
        for target in options.target.lower().split(","):
            built = build(
                replace(job, options=replace(job.options, target=target)),
                trt,
                rebuild=options.rebuild,
            )
            _report(
                options,
                built,
                "not run here: the device that loads it runs the golden vectors first",
            )
        return 0
    # the golden vectors run now, so that a wrong plan is found at build time
    prove = partial(_prove, bundle, trt)
    if options.fallback:
        _report(options, *build_with_fallbacks(job, trt, prove, rebuild=options.rebuild))
    else:
        built = build(job, trt, rebuild=options.rebuild)
        _report(options, built, prove(built))
    return 0


def _open(options: argparse.Namespace) -> Bundle:
    """Opens the bundle and checks the arguments before TensorRT is loaded, which takes seconds."""
    bundle = Bundle.open(options.bundle)
    if options.graph not in BUILDABLE:
        raise UsageError(
            f"{options.graph} is for ONNX Runtime on CPUs, or unknown; build {', '.join(BUILDABLE)}"
        )
    # raises an error if the bundle does not have the graph
    bundle.graph_files(options.graph)
    for name in ("memory", "workspace"):
        value = getattr(options, name)
        # `not <` also catches NaN
        if value is not None and not 0 < value < MOST_GIB:
            raise UsageError(f"`{name}` is {value:g}: give GiB, more than 0")
    return bundle


def _profiles(options: argparse.Namespace, bundle: Bundle) -> Profiles:
    """Returns the optimization profiles that `--profile` names, or those of its JSON file."""
    contract = Contract.load(bundle.folder / "contract.json")
    # the name of a kind takes precedence over a file of the same name
    if options.profile in KINDS:
        widths = widths_of(asdict(bundle.manifest.model))
        return derive_profiles(contract, widths, options.profile, int(options.memory * GIB))
    profiles = read_profiles(Path(options.profile), contract)
    # without a range, the plan would accept only pictures with a single attention window
    if contract.tower.window and any(
        ranges["windows"] == (1, 1, 1) for ranges in profiles["vision"]
    ):
        raise InputError(
            f"{options.profile}: this model's vision tower has windows; "
            "give a range of windows in each profile of vision"
        )
    return profiles


def _prove(bundle: Bundle, trt: Any, built: Build) -> str:
    """Runs the golden vectors through new plans; raises `ProofError` if a gate is not met."""
    backend = open_plans(bundle, built, trt, LoadOptions())
    with Encoder(Preparer.load(bundle.folder), backend, built.facts.graph) as encoder:
        return require_proof(encoder, bundle, built)


def _report(options: argparse.Namespace, built: Build, proof: str) -> None:
    """Prints one build: a line of text, or JSON."""
    size = sum((built.folder / f"{part}.plan").stat().st_size for part in PARTS)
    facts = built.facts
    if options.json:
        outcome = {"folder": str(built.folder), "bytes": size, "proved": proof, **asdict(facts)}
        # one object per line, because `--target` builds several
        print(json.dumps(outcome))
    else:
        device = facts.gpu or facts.capability
        print(f"{built.folder}: {size / 1e6:.1f} MB for {device}, {facts.level}; {proof}")
