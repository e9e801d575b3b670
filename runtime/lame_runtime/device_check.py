"""Plans are proved on the device that runs them: the golden vectors run before anything else may use them.

What was found is kept in `device-UUID.json` beside the plans, outside the bundle's hashed files, or in the user's cache where
that cannot be written, for this GPU, driver, TensorRT and way to run; the next load on the same device reads it. Fused
kernels have been silently wrong on some pairs of GPU and version.
"""

from __future__ import annotations

import contextlib
import json
import platform
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Proof:
    """What the golden vectors said of plans on this device."""

    rows: list[Result]
    outside: int
    """Golden inputs that fit no profile and were not run."""
    file: Path | None
    """The device's certificate; None where it could not be written."""

    def describe(self) -> str:
        """How much was run, and what was not."""
        said = [f"{len(self.rows)} rows"]
        if self.outside:
            said.append(f"{self.outside} golden inputs fit no profile and were not run")
        if unproved := sum(row.inputs == 0 for row in self.rows):
            said.append(f"{unproved} profiles that no golden input fits")
        if self.file is None:
            said.append("its certificate could not be written, so this is done at each load")
        return ", ".join(said)


def require_proof(encoder: Encoder, bundle: Bundle, build: Build) -> str:
    """Runs the golden vectors unless they ran on this device before; returns what to say about it.

    Raises:
        ProofError: a gate is not met; the message says which, by how much, and what to do.
        BackendError: the plans could not be run; `DeviceError` where that is the GPU's fault and says nothing about them.
        BundleError: the golden vectors are not those that were exported.
    """
    if _proved(build, bundle, encoder.backend):
        return "proved on this device before"
    proof = prove(encoder, bundle, build)
    if failed := [row for row in proof.rows if row.passed is False]:
        worst = failed[0]
        where = " ".join((worst.comparison, worst.modality))
        raise ProofError(f"{build.folder}: not to be trusted on this device: {where}: {worst.describe()}; {LADDER}")
    return f"proved on this device now, {proof.describe()}"


def prove(encoder: Encoder, bundle: Bundle, build: Build) -> Proof:
    """The certificate's rows of one graph on this device, and one for each profile; kept in `device-UUID.json`.

    Raises:
        BackendError: no golden input fits the plans' profiles; `DeviceError` where the GPU failed, and then nothing is kept.
        BundleError: the golden vectors are not those that were exported.
    """
    from lame_runtime.compare import graph_rows

    bundle.check_golden()
    golden = read_golden(bundle.folder)
    fitting = _fitting(golden, encoder)
    rows = graph_rows(encoder, encoder.graph, _chosen(golden, fitting[None]))
    rows += _profile_rows(encoder, golden, fitting)
    outside = len(golden.inputs) - len(fitting[None])
    report = {
        "passed": all(row.passed is not False for row in rows),
        "rows": [row.to_json() for row in rows],
        "fit_no_profile": outside,
        "device": device_of(encoder.backend),
        "rung": build.facts["rung"],
        "built_graph": build.facts["built_graph"],
        "files": build.facts["files"],
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    return Proof(rows, outside, _keep(_files(build, bundle, encoder.backend), text))


Profile = tuple[str, int]
"""A part and the index of one of its profiles."""


def _fitting(golden: Golden, encoder: Encoder) -> dict[Profile | None, list[int]]:
    """The golden inputs that any profile takes (None), and that one does where a part has several.

    Profiles may be smaller than the contract. Of a vision tower's profile, inputs with pictures only.
    """
    backend = encoder.backend
    assert isinstance(backend, TrtBackend)
    found: dict[Profile | None, list[int]] = {None: []}
    found |= {(part, index): [] for part, count in backend.profiles.items() if count > 1 for index in range(count)}
    for number, each in enumerate(golden.inputs):
        batch = assemble([encoder.preparer(each.item, each.role)], encoder.preparer.contract)
        for profile, chosen in found.items():
            if profile is not None and profile[0] == "vision" and not batch.groups:
                continue
            with contextlib.nullcontext() if profile is None else backend.only(*profile):
                if backend.takes(batch):
                    chosen.append(number)
    if not found[None]:
        raise BackendError("no golden input fits the plans' profiles; build plans for larger inputs: lame-export engine --profile")
    return found


def _chosen(golden: Golden, which: list[int]) -> Golden:
    return Golden([golden.inputs[index] for index in which], golden.embeddings[which])


def _profile_rows(encoder: Encoder, golden: Golden, fitting: dict[Profile | None, list[int]]) -> list[Result]:
    """A row for each profile: left to themselves, inputs take the first that suits, and the kernels of another may never run."""
    from lame_runtime.compare import profile_row

    backend = encoder.backend
    assert isinstance(backend, TrtBackend)
    rows = []
    for profile, chosen in fitting.items():
        if profile is None:
            continue
        part, index = profile
        note = f"{part} profile {index + 1} of {backend.profiles[part]}"
        if chosen:
            with backend.only(part, index):
                size = 1 if backend.cuda_graphs else 32  # one by one, shapes come again and are replayed
                rows.append(profile_row(encoder, encoder.graph, _chosen(golden, chosen), note, size))
        else:
            rows.append(Result(f"graph vs PyTorch, {note}", encoder.graph, "mixed", 0, None, {"inputs": 0}, None, "no golden input fits"))
    return rows


def device_of(backend: Any) -> dict[str, str]:
    """What a proof holds for."""
    assert isinstance(backend, TrtBackend)
    gpu = backend.gpu
    return {
        "gpu": gpu.name,
        "uuid": gpu.uuid,
        "capability": gpu.capability,
        "driver": gpu.release,
        "driver_cuda": gpu.driver,
        "cuda": gpu.runtime,
        "tensorrt": backend.engine,
        "cuda_graphs": str(backend.cuda_graphs).lower(),
    }


def _files(build: Build, bundle: Bundle, backend: Any) -> list[Path]:
    """Where the device's certificate may lie, the first choice first."""
    assert isinstance(backend, TrtBackend)
    name = f"device-{backend.gpu.uuid[:12]}{'-graphs' if backend.cuda_graphs else ''}.json"
    return [place / name for place in build.places(bundle)]


def _keep(files: list[Path], text: str) -> Path | None:
    """Writes the certificate to the first place that can be written; where there is none, plans are proved anew at each load."""
    for path in files:
        with contextlib.suppress(InputError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_text(path, text)
            return path
    return None


def _proved(build: Build, bundle: Bundle, backend: Any) -> bool:
    """Whether the newest certificate for this device, these plans and this way to run says so."""
    newest = ("", True)
    for path in _files(build, bundle, backend):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            if report["device"] == device_of(backend) and report["files"] == build.facts["files"]:
                newest = max(newest, (str(report["date"]), report["passed"] is not True))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return not newest[1]
