"""Both plans of a graph: built once for all they depend on, sealed, and proved where there is a GPU to prove them on.

ENGINES/GRAPH.PROFILE.KEY/   see `lame_runtime.plans`; KEY stands for graph, TensorRT, GPU, profiles and flags
CACHE/timing/MODULE-VERSION-GPU.cache   of the user, since TensorRT reads it unasked
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from lame_runtime.atomic import atomic_folder, atomic_path
from lame_runtime.backends._cudart import Cudart
from lame_runtime.bundle import PARTS, Bundle
from lame_runtime.contract.manifest import sha256_file
from lame_runtime.device_check import ProofError
from lame_runtime.errors import BackendError, InputError
from lame_runtime.plans import FORMAT_VERSION, Build, cache_folder, engine_folder, graph_hashes, seal
from tqdm import tqdm

from lame_export.engine.features import has
from lame_export.engine.ladder import RUNGS, edit
from lame_export.engine.network import Options, build_plan, check_gpu
from lame_export.engine.profiles import Profiles
from lame_export.engine.progress import interruptible, make_monitor

BUILDABLE = ("fp32", "fp16", "int8")
"""Graphs of operators TensorRT has; int8-cpu is ONNX Runtime's."""


@dataclass(frozen=True)
class Job:
    """What to build."""

    bundle: Bundle
    graph: str
    profile: str
    """What the profiles are called: latency, throughput, or the name of their file."""
    profiles: Profiles
    options: Options
    rung: int = 0
    """Of the ladder."""
    folder: Path | None = None
    """Where engines go; None takes the bundle's, or the user's cache for a read-only one."""

    @property
    def engines(self) -> Path:
        """Where engines go."""
        return self.folder or engine_folder(self.bundle)


def build(job: Job, trt: Any, *, rebuild: bool = False) -> Build:
    """Builds both plans, or finds them built.

    Args:
        job: what.
        trt: the TensorRT module.
        rebuild: build even where the same lies there.

    Raises:
        ExportError: TensorRT refuses a graph.
        InputError: no place to write, or an option that this version lacks.
        BackendError: no GPU, and no target was named.
    """
    facts = _facts(job, trt)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    target = job.engines / f"{job.graph}.{Path(job.profile).stem}.{key}"
    known = _known(target, facts)
    if known is not None and not rebuild:
        return known
    where = facts["gpu"] or facts["capability"]
    timing = _timing_file(trt, where)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    with atomic_folder(beside) as fresh:
        for part, graph_path in zip(PARTS, job.bundle.graph_paths(_graph(job)), strict=True):
            plan, cache = _build_part(job, trt, part, graph_path, _timed(timing))
            (fresh / f"{part}.plan").write_bytes(plan)
            if timing is not None:
                _keep(timing, cache)
        facts |= {
            "files": {f"{part}.plan": sha256_file(fresh / f"{part}.plan") for part in PARTS},
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        facts["seal"] = seal(facts)
        (fresh / "build.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return _put(beside, target, facts)


def _put(beside: Path, target: Path, facts: dict[str, Any]) -> Build:
    """Gives a finished build its name; what lay there is kept aside until that is done, and comes back where it is not."""
    before = beside.with_name(f"{beside.name}.before")
    try:
        if target.exists():
            target.rename(before)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        known = _known(target, facts, but=("files", "date", "seal"))
        if known is None:  # not even another process that was faster
            raise InputError(f"{target}: cannot be written ({error.strerror}); choose another folder with --out") from None
        return known
    finally:
        if target.exists():
            shutil.rmtree(before, ignore_errors=True)
        else:
            with suppress(OSError):  # nothing was there
                before.rename(target)
    return Build(target, facts)


def _remove(folder: Path) -> None:
    """Removes plans that compute nonsense; raises `InputError`."""
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be removed ({error.strerror}); remove it, as its plans are wrong here") from None


def _timing_file(trt: Any, where: str) -> Path | None:
    """Of this TensorRT and GPU; None for TensorRT-RTX, which measures nothing when it builds, and for accounts without a cache."""
    cache = cache_folder()
    if cache is None or trt.__name__ != "tensorrt":
        return None
    return cache / "timing" / f"{trt.__name__}-{trt.__version__}-{'_'.join(re.split(r'[ /]', where))}.cache"


def climb(job: Job, trt: Any, prove: Callable[[Build], str], *, rebuild: bool = False) -> tuple[Build, str]:
    """Builds rung after rung until the golden vectors are met; raises the last rung's `ProofError`.

    Args:
        job: its rung is the first.
        trt: the TensorRT module.
        prove: raises `ProofError` where a build's numbers are wrong; other errors, such as a GPU without memory, end the climb
            and leave the build.
        rebuild: build even where the same lies there.

    Returns:
        The build, and what `prove` said of it.
    """
    last = len(RUNGS) - 1 if "fp32" in job.bundle.graphs else len(RUNGS) - 2
    rungs = [0] if job.graph == "fp32" else list(range(job.rung, last + 1))
    for rung in rungs:
        built = build(replace(job, rung=rung), trt, rebuild=rebuild)
        try:
            return built, prove(built)
        except ProofError as error:
            print(f"rung {rung} ({RUNGS[rung]}): {error}", file=sys.stderr)
            _remove(built.folder)
            if rung == rungs[-1]:
                raise
    raise AssertionError("the last rung returns or raises")


def _facts(job: Job, trt: Any) -> dict[str, Any]:
    """All that a build depends on."""
    if job.options.target is None:
        try:
            device = Cudart().describe()
        except BackendError as error:
            hint = "; or name a GPU that is not here with --target" if has(trt, "ComputeCapability") else ""
            raise BackendError(f"{error}{hint}") from None
        gpu, capability = device.name, device.capability
        check_gpu(trt, gpu, capability)
    else:
        gpu, capability = None, job.options.target
    return {
        "format_version": FORMAT_VERSION,
        "graph": job.graph,
        "built_graph": _graph(job),
        "graph_files": graph_hashes(job.bundle, _graph(job)),
        "module": trt.__name__,
        "version": trt.__version__,
        "gpu": gpu,
        "capability": capability,
        "profile": job.profile,
        "profiles": {part: [{name: list(values) for name, values in ranges.items()} for ranges in job.profiles[part]] for part in PARTS},
        "flags": job.options.flags,
        "optimization_level": job.options.optimization_level,
        "workspace": job.options.workspace,
        "rung": RUNGS[job.rung],
    }


def _known(target: Path, facts: dict[str, Any], but: tuple[str, ...] = ()) -> Build | None:
    """The build that lies there, if it is whole and of the same."""
    try:
        found = json.loads((target / "build.json").read_text(encoding="utf-8"))
        whole = all(sha256_file(target / name) == expected for name, expected in found["files"].items())
        same = all(found[name] == value for name, value in facts.items() if name not in but) and found["seal"] == seal(found)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Build(target, found) if whole and same else None


def _graph(job: Job) -> str:
    """The last rung runs another graph."""
    return "fp32" if RUNGS[job.rung] == "FP32" else job.graph


def _build_part(job: Job, trt: Any, part: str, graph_path: Path, timing: bytes | None) -> tuple[bytes, bytes]:
    change = partial(edit, job.rung)
    with interruptible() as stopped, tqdm(desc=f"{part}.{_graph(job)}", unit="step", disable=None, leave=False) as bar:
        monitor = make_monitor(trt, bar, stopped)
        return build_plan(graph_path, job.profiles[part], job.options, trt, edit=change, timing_cache=timing, monitor=monitor)


def _timed(path: Path | None) -> bytes | None:
    """What earlier builds on this device measured."""
    if path is None:
        return None
    return path.read_bytes() if path.is_file() else b""


def _keep(path: Path, cache: bytes) -> None:
    """Writes a timing cache, which only makes the next build faster."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as fresh:
            fresh.write_bytes(cache)
    except (OSError, InputError) as error:
        print(f"{path}: the timing cache was not kept ({error})", file=sys.stderr)
