"""Describes what to build, and collects the facts that identify a build."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lame_runtime.backends.tensorrt.cudart import Cudart
from lame_runtime.backends.tensorrt.plans import PlanFacts, engine_folder
from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.errors import BackendError

from lame_export.engine.fallback_levels import FALLBACK_LEVELS
from lame_export.engine.features import has
from lame_export.engine.network import Options, check_gpu
from lame_export.engine.profiles import Profiles


@dataclass(frozen=True)
class BuildJob:
    """One graph of a bundle to build plans of: for which shapes, and with which options."""

    bundle: Bundle
    graph: str
    profile: str
    """Name of the profiles: latency, throughput, or the name of their file."""
    profiles: Profiles
    options: Options
    level: int = 0
    """Index into `FALLBACK_LEVELS`: how much is computed in FP32."""
    out: Path | None = None
    """Folder for builds; None takes the bundle's, or the user's cache if that is read-only."""

    @property
    def engines(self) -> Path:
        """The folder that holds the build's own folder."""
        return self.out or engine_folder(self.bundle)

    @property
    def built_graph(self) -> str:
        """The graph that is built: the last fallback level takes the FP32 graph instead."""
        return "fp32" if FALLBACK_LEVELS[self.level] == "FP32" else self.graph

    def folder(self, facts: PlanFacts) -> Path:
        """Returns the build's own folder, `GRAPH.PROFILE.KEY`; KEY is a hash of the facts."""
        text = json.dumps(asdict(facts), sort_keys=True)
        # Twelve digits are enough to keep the few builds of a bundle apart.
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        return self.engines / f"{self.graph}.{Path(self.profile).stem}.{key}"


def build_facts(job: BuildJob, trt: Any) -> PlanFacts:
    """Returns all that a build depends on; builds with equal facts are interchangeable.

    What is only known after the build (files, date, signature) is empty. A hash of the facts names
    the build's folder.

    Raises:
        BackendError: there is no GPU, and the options name no target.
        UsageError: the TensorRT module does not run on this GPU.
    """
    gpu, capability = _device(job, trt)
    return PlanFacts(
        graph=job.graph,
        built_graph=job.built_graph,
        graph_files=job.bundle.graph_hashes(job.built_graph),
        module=trt.__name__,
        version=trt.__version__,
        gpu=gpu,
        capability=capability,
        profile=job.profile,
        profiles={
            # As lists, because facts that were read back from JSON have no tuples.
            part: [
                {name: list(bounds) for name, bounds in ranges.items()}
                for ranges in job.profiles[part]
            ]
            for part in PARTS
        },
        flags=job.options.flags,
        optimization_level=job.options.optimization_level,
        workspace=job.options.workspace,
        level=FALLBACK_LEVELS[job.level],
        files={},
    )


def _device(job: BuildJob, trt: Any) -> tuple[str | None, str]:
    """Returns name and compute capability of the GPU to build for; a target has no name."""
    if job.options.target is not None:
        return None, job.options.target
    # A plan for a target runs on every GPU of that capability, whatever its name.
    try:
        device = Cudart().describe()
    except BackendError as error:
        can_target = has(trt, "ComputeCapability")
        hint = "; or name a GPU that is not in this machine as `target`" if can_target else ""
        raise BackendError(f"{error}{hint}") from None
    check_gpu(trt, device.name, device.capability)
    return device.name, device.capability
