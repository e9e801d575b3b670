"""`lame-export engine`."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lame_runtime.backends._tensorrt import load_tensorrt
from lame_runtime.bundle import PARTS, Bundle
from lame_runtime.cli import path
from lame_runtime.contract import Contract, Preparer
from lame_runtime.device_check import require_proof
from lame_runtime.encoder import Encoder
from lame_runtime.errors import InputError
from lame_runtime.opening import Wanted, open_build
from lame_runtime.plans import Build

from lame_export.engine.build import BUILDABLE, Job, build, climb
from lame_export.engine.network import Options
from lame_export.engine.profiles import GIB, KINDS, Profiles, derive, read_profiles, widths_of


def add(commands: Any) -> None:
    """Declares the command."""
    engine = commands.add_parser("engine", help="bundle → TensorRT plans, for this GPU or for named ones")
    engine.add_argument("bundle", type=path)
    engine.add_argument("--graph", default="fp16", help="fp32, fp16 or int8 (fp16)")
    engine.add_argument("--module", choices=["tensorrt", "tensorrt_rtx"], help="without it, the first that is installed")
    engine.add_argument("--target", help="compute capabilities such as sm86,sm120 (TensorRT-RTX); without it the GPU at hand")
    engine.add_argument("--profile", default="latency", help="latency, throughput, or a JSON file of profiles (latency)")
    engine.add_argument("--memory", type=float, default=2.0, metavar="GIB", help="GPU memory for activations, which bounds batches (2)")
    engine.add_argument("--workspace", type=float, metavar="GIB", help="GPU memory a layer may use; all without it")
    engine.add_argument("--optimization-level", type=int, choices=range(6), metavar="0-5", help="effort of the builder (TensorRT's own)")
    engine.add_argument("--version-compatible", action="store_true", help="plans that later versions of the same major one run too")
    engine.add_argument("--hardware-compatible", action="store_true", help="plans for every GPU from Ampere on")
    engine.add_argument("--strip-weights", action="store_true", help="plans without weights, which are read from the bundle at load")
    engine.add_argument("--fallback", action="store_true", help="where the golden vectors are not met, build more careful plans")
    engine.add_argument("--rebuild", action="store_true", help="build again what is there")
    engine.add_argument("--out", type=path, metavar="DIR", help="where plans go; BUNDLE/engines without it")
    engine.add_argument("--json", action="store_true", help="print what was built as JSON")
    engine.set_defaults(run=_engine)


def _engine(options: argparse.Namespace) -> int:
    bundle = Bundle.open(options.bundle)
    if options.graph not in BUILDABLE:
        raise InputError(f"{options.graph} is for ONNX Runtime on CPUs, or unknown; build {', '.join(BUILDABLE)}")
    bundle.graph_files(options.graph)
    for name in ("memory", "workspace"):
        if (value := getattr(options, name)) is not None and not 0 < value < 1024:
            raise InputError(f"--{name} {value:g}: give GiB, more than 0")
    trt = load_tensorrt(options.module)
    profiles = _profiles(options, bundle)
    how = Options(
        optimization_level=options.optimization_level,
        workspace=None if options.workspace is None else int(options.workspace * GIB),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        strip_weights=options.strip_weights,
    )
    for target in options.target.lower().split(",") if options.target else (None,):
        job = Job(bundle, options.graph, options.profile, profiles, replace(how, target=target), folder=options.out)
        if target is not None:
            _tell(options, build(job, trt, rebuild=options.rebuild), "not run here: the device that loads it runs the golden vectors first")
            continue
        if options.fallback:
            _tell(options, *climb(job, trt, partial(_prove, bundle, trt), rebuild=options.rebuild))
        else:
            built = build(job, trt, rebuild=options.rebuild)
            _tell(options, built, _prove(bundle, trt, built))
    return 0


def _profiles(options: argparse.Namespace, bundle: Bundle) -> Profiles:
    if options.profile in KINDS:
        contract = Contract.load(bundle.folder / "contract.json")
        return derive(contract, widths_of(bundle.manifest["model"]), options.profile, int(options.memory * GIB))
    profiles = read_profiles(Path(options.profile))
    if Contract.load(bundle.folder / "contract.json").tower.window and any(ranges["windows"] == (1, 1, 1) for ranges in profiles["vision"]):
        raise InputError(f"{options.profile}: this model's vision tower has windows; give a range of windows in each profile of vision")
    return profiles


def _prove(bundle: Bundle, trt: Any, built: Build) -> str:
    """Runs the golden vectors through new plans; raises `ProofError` where they are not met."""
    with Encoder(Preparer.load(bundle.folder), open_build(bundle, built, trt, Wanted()), built.facts["graph"]) as encoder:
        return require_proof(encoder, bundle, built)


def _tell(options: argparse.Namespace, built: Build, proved: str) -> None:
    size = sum((built.folder / f"{part}.plan").stat().st_size for part in PARTS)
    if options.json:
        print(json.dumps({"folder": str(built.folder), "bytes": size, "proved": proved, **built.facts}))
        return
    facts = built.facts
    print(f"{built.folder}: {size / 1e6:.1f} MB for {facts['gpu'] or facts['capability']}, {facts['rung']}; {proved}")
