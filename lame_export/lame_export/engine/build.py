"""Builds the two plans of a job, once for equal facts, with or without precision fallbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.plans import Build
from lame_runtime.backends.tensorrt.signature import sign
from lame_runtime.bundle.bundle import PARTS
from lame_runtime.bundle.manifest import sha256_file
from lame_runtime.errors import ProofError
from lame_runtime.files.atomic import atomic_folder
from lame_runtime.progress import progress_bar

from lame_export.engine.build_files import (
    find_equal_build,
    read_timing_cache,
    remove_build,
    swap_in,
    temporary_name,
    timing_cache_file,
    write_timing_cache,
)
from lame_export.engine.build_job import BuildJob, build_facts
from lame_export.engine.fallback_levels import FALLBACK_LEVELS, edit_network
from lame_export.engine.network import build_plan
from lame_export.engine.progress import interruptible, make_monitor

_logger = logging.getLogger(__name__)
BUILDABLE = ("fp32", "fp16", "int8")
"""Graphs that TensorRT can build; the others hold operators of ONNX Runtime's CPU provider."""


def build(job: BuildJob, trt: Any, *, rebuild: bool = False) -> Build:
    """Builds both plans of a job, or returns those that an earlier call built from equal facts.

    `build.json`, which is written beside the plans, holds a signature (an HMAC) that shows that
    this account built them: a plan is code, and others' plans are not loaded.

    Args:
        job: what to build.
        trt: the TensorRT module.
        rebuild: build even if an equal build exists.

    Raises:
        ExportError: TensorRT refuses a graph.
        StorageError: the plans cannot be written.
        UsageError: an option that this version lacks.
        BackendError: there is no GPU, and the options name no target.
    """
    facts = build_facts(job, trt)
    target = job.folder(facts)
    existing = find_equal_build(target, facts)
    if existing is not None and not rebuild:
        return existing
    timing_file = timing_cache_file(trt, facts.gpu or facts.capability)
    fresh = temporary_name(target)
    with atomic_folder(fresh) as folder:
        graph_paths = job.bundle.graph_paths(job.built_graph)
        for part, graph_path in zip(PARTS, graph_paths, strict=True):
            plan, timings = _build_part(job, trt, part, graph_path, read_timing_cache(timing_file))
            (folder / f"{part}.plan").write_bytes(plan)
            # Written after each part, as the second one can use what the first one measured.
            if timing_file is not None:
                write_timing_cache(timing_file, timings)
        facts = replace(
            facts,
            files={f"{part}.plan": sha256_file(folder / f"{part}.plan") for part in PARTS},
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        # The signature covers all other facts, so it comes last.
        facts = replace(facts, signature=sign(facts))
        (folder / "build.json").write_text(facts.to_json(), encoding="utf-8")
    return swap_in(fresh, target, facts)


def _build_part(
    job: BuildJob, trt: Any, part: str, graph_path: Path, timing_cache: bytes | None
) -> tuple[bytes, bytes]:
    """Builds "vision" or "encoder" with a progress bar; returns the plan and the timing cache."""
    name = f"{part}.{job.built_graph}"
    with interruptible() as stopped, progress_bar(desc=name, unit="step", leave=False) as bar:
        return build_plan(
            graph_path,
            job.profiles[part],
            job.options,
            trt,
            edit=partial(edit_network, job.level),
            timing_cache=timing_cache,
            monitor=make_monitor(trt, bar, stopped),
        )


def build_with_fallbacks(
    job: BuildJob, trt: Any, prove: Callable[[Build], str], *, rebuild: bool = False
) -> tuple[Build, str]:
    """Builds one fallback level after the other until a build reproduces the golden vectors.

    Builds that do not are removed, so that nobody loads them.

    Args:
        job: its level is the first to be built.
        trt: the TensorRT module.
        prove: raises `ProofError` if a build's numbers are wrong. Any other error, such as a GPU
            without free memory, says nothing about the build: it is passed on and the build stays.
        rebuild: build even if an equal build exists.

    Returns:
        The build, and what `prove` returned for it.

    Raises:
        ProofError: the last level's numbers are wrong, too.
    """
    failure = ProofError(f"{job.graph}: the bundle has no graph for fallback level {job.level}")
    for level in _levels(job):
        fresh = build(replace(job, level=level), trt, rebuild=rebuild)
        try:
            return fresh, prove(fresh)
        except ProofError as error:
            _logger.warning("fallback level %d (%s): %s", level, FALLBACK_LEVELS[level], error)
            remove_build(fresh.folder)
            failure = error
    raise failure


def _levels(job: BuildJob) -> list[int]:
    """Returns the fallback levels that make sense for a job, lowest first."""
    if job.graph == "fp32":
        return [0]
    levels = range(job.level, len(FALLBACK_LEVELS))
    # The last level builds the FP32 graph, which a bundle may not have.
    return list(levels if "fp32" in job.bundle.graphs else levels[:-1])
