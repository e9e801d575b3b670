"""Plans are proved on the device that runs them: the golden vectors run before anything else may use them.

What was found is kept beside the plans in `device-UUID.json`, outside the bundle's hashed files, for this GPU, driver,
TensorRT and way to run; the next load on the same device reads it. Fused kernels have been silently wrong on some pairs of GPU and version.
"""

from __future__ import annotations

import contextlib
import json
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lame_runtime.atomic import atomic_text
from lame_runtime.backends.trt import TrtBackend
from lame_runtime.batching import assemble
from lame_runtime.errors import BackendError, InputError
from lame_runtime.gates import Result
from lame_runtime.golden import Golden, read_golden
from lame_runtime.plans import Build

if TYPE_CHECKING:
    from lame_runtime.bundle import Bundle
    from lame_runtime.encoder import Encoder

LADDER = "build plans that compute more carefully: lame-export engine BUNDLE --fallback (attention unfused, then more in FP32, then FP32)"


class ProofError(BackendError):
    """Plans compute something else than PyTorch on this device."""


def require_proof(encoder: Encoder, bundle: Bundle, build: Build) -> str:
    """Runs the golden vectors unless they ran on this device before; returns what to say about it.

    Raises:
        ProofError: a gate is not met; the message says which, by how much, and what to do.
        BackendError: the plans could not be run.
    """
    if _proved(build, encoder.backend):
        return "proved on this device before"
    rows = prove(encoder, bundle, build)
    if failed := [row for row in rows if row.passed is False]:
        worst = failed[0]
        where = " ".join((worst.comparison, worst.modality))
        raise ProofError(f"{build.folder}: not to be trusted on this device: {where}: {worst.describe()}; {LADDER}")
    return f"proved on this device now, {len(rows)} rows"


def prove(encoder: Encoder, bundle: Bundle, build: Build) -> list[Result]:
    """The certificate's rows of one graph on this device; writes `device-UUID.json` where the folder can be written."""
    from lame_runtime.compare import graph_rows

    golden, left_out = _that_fits(read_golden(bundle.folder), encoder)
    rows = graph_rows(encoder, encoder.graph, golden)
    report = {
        "passed": all(row.passed is not False for row in rows),
        "rows": [row.to_json() for row in rows],
        "larger_than_every_profile": left_out,
        "device": device_of(encoder.backend),
        "files": build.facts["files"],
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(InputError):  # a read-only place: proved anew at each load
        atomic_text(_file(build, encoder.backend), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return rows


def _that_fits(golden: Golden, encoder: Encoder) -> tuple[Golden, int]:
    """The golden inputs that the plans' profiles take, and how many they do not: profiles may be smaller than the contract."""
    assert isinstance(encoder.backend, TrtBackend)
    fitting = [
        index
        for index, each in enumerate(golden.inputs)
        if encoder.backend.takes(assemble([encoder.preparer(each.item, each.role)], encoder.preparer.contract))
    ]
    if not fitting:
        raise BackendError("no golden input fits the plans' profiles; build plans for larger inputs: lame-export engine --profile")
    chosen = Golden([golden.inputs[index] for index in fitting], golden.embeddings[fitting])
    return chosen, len(golden.inputs) - len(fitting)


def device_of(backend: Any) -> dict[str, str]:
    """What a proof holds for."""
    assert isinstance(backend, TrtBackend)
    gpu = backend.gpu
    return {
        "gpu": gpu.name,
        "uuid": gpu.uuid,
        "capability": gpu.capability,
        "driver": gpu.driver,
        "cuda": gpu.runtime,
        "tensorrt": backend.engine,
        "cuda_graphs": str(backend.cuda_graphs).lower(),
    }


def _file(build: Build, backend: Any) -> Path:
    assert isinstance(backend, TrtBackend)
    return build.folder / f"device-{backend.gpu.uuid[:12]}{'-graphs' if backend.cuda_graphs else ''}.json"


def _proved(build: Build, backend: Any) -> bool:
    try:
        report = json.loads(_file(build, backend).read_text(encoding="utf-8"))
        same = report["device"] == device_of(backend) and report["files"] == build.facts["files"]
        return bool(report["passed"] and same)
    except (OSError, ValueError, KeyError, TypeError):
        return False
