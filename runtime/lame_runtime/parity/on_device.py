"""Checks TensorRT plans with the golden vectors on the device that runs them, before first use.

Fused kernels have been silently wrong for some combinations of GPU and TensorRT version. The result
is stored in `device-UUID.json` beside the plans, outside the bundle's hashed files, or in the
user's cache if that folder is not writable. It is valid for one GPU, driver and TensorRT version,
with or without CUDA graphs; the next load on the same device reads it.
"""

from __future__ import annotations

import contextlib
import json
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from lame_runtime.backends.base import Backend, Part, ProfiledBackend
from lame_runtime.backends.tensorrt.plans import Build
from lame_runtime.bundle.bundle import Bundle
from lame_runtime.bundle.certificate import Result
from lame_runtime.bundle.engine_files import read_device_report
from lame_runtime.bundle.golden import Golden
from lame_runtime.contract.batch import assemble
from lame_runtime.errors import BackendError, ProofError, StorageError, shown
from lame_runtime.files.atomic import atomic_text
from lame_runtime.parity.compare import BATCH_SIZE, graph_rows, profile_row
from lame_runtime.parity.embeds import Embeds

REMEDY = (
    "build more precise plans: lame-export engine BUNDLE --fallback "
    "(attention unfused, then more in FP32, then FP32)"
)
Profile = tuple[Part, int]
"""A part, and the index of one of its optimization profiles."""


@dataclass(frozen=True)
class Proof:
    """Holds the results of running the golden vectors through plans on this device."""

    rows: list[Result]
    outside: int
    """Number of golden inputs that fit no profile and were not run."""
    file: Path | None
    """This device's certificate; None if it could not be written."""

    def describe(self) -> str:
        """Returns on one line how many rows were measured, and which inputs were not run."""
        parts = [f"{len(self.rows)} rows"]
        if self.outside:
            parts.append(f"{self.outside} golden inputs fit no profile and were not run")
        if unproved := sum(row.inputs == 0 for row in self.rows):
            parts.append(f"{unproved} profiles that no golden input fits")
        if self.file is None:
            parts.append("its certificate could not be written, so this is done at each load")
        return ", ".join(parts)


def require_proof(encoder: Embeds, bundle: Bundle, build: Build) -> str:
    """Runs the golden vectors, unless they have already passed on this device.

    Returns:
        One line about the result, for `Encoder.reason`.

    Raises:
        ProofError: a gate is not met; the message gives the row, its figures and a remedy.
        BackendError: the plans could not be run; `DeviceError` if the GPU failed, which does not
            mean that the plans are wrong.
        BundleError: the golden files differ from the exported ones.
    """
    backend = _profiled(encoder.backend)
    if _passed_before(build, bundle, backend):
        return "proved on this device before"
    proof = prove(encoder, bundle, build)
    if failed := [row for row in proof.rows if row.passed is False]:
        # the first failed row is enough for a message; `lame-runtime verify` lists all
        row = failed[0]
        raise ProofError(
            f"{shown(build.folder)}: not to be trusted on this device: "
            f"{row.comparison} {row.modality}: {row.describe()}; {REMEDY}"
        )
    return f"proved on this device now, {proof.describe()}"


def prove(encoder: Embeds, bundle: Bundle, build: Build) -> Proof:
    """Measures the certificate's rows of one graph on this device, and one row per profile.

    Returns:
        The rows, which are also stored in `device-UUID.json`.

    Raises:
        BackendError: no golden input fits the profiles; `DeviceError` if the GPU failed, and then
            nothing is stored.
        BundleError: the golden files differ from the exported ones.
    """
    backend = _profiled(encoder.backend)
    # a manipulated golden file could make wrong plans pass
    bundle.check_golden()
    golden = bundle.golden()
    fitting, by_profile = _fitting(golden, encoder, backend)
    rows = graph_rows(encoder, encoder.graph, golden.subset(fitting))
    rows += _profile_rows(encoder, backend, golden, by_profile)
    outside = len(golden.inputs) - len(fitting)
    report = {
        "passed": all(row.passed is not False for row in rows),
        "rows": [row.to_json() for row in rows],
        "fit_no_profile": outside,
        "device": device_of(backend),
        "level": build.facts.level,
        "built_graph": build.facts.built_graph,
        # hashes of the plans, because a new build needs a new proof
        "files": build.facts.files,
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    return Proof(rows, outside, _write_first(_certificate_files(build, bundle, backend), text))


def device_of(backend: ProfiledBackend) -> dict[str, str]:
    """Returns GPU, driver, TensorRT version and use of CUDA graphs that a proof is valid for."""
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


def _profiled(backend: Backend) -> ProfiledBackend:
    if not isinstance(backend, ProfiledBackend):
        raise BackendError(f"{backend.name}: has no TensorRT plans to prove")
    return backend


def _fitting(
    golden: Golden, encoder: Embeds, backend: ProfiledBackend
) -> tuple[list[int], dict[Profile, list[int]]]:
    """Returns the golden inputs that fit the plans, and those that fit each single profile.

    Profiles may be smaller than the contract's limits. The second result omits parts with a single
    profile, which all inputs run in anyway.
    """
    preparer = encoder.preparer
    fitting: list[int] = []
    by_profile: dict[Profile, list[int]] = {
        (part, index): []
        for part, count in backend.profiles.items()
        if count > 1
        for index in range(count)
    }
    for number, entry in enumerate(golden.inputs):
        batch = assemble([entry.prepare(preparer)], preparer.contract)
        if backend.takes(batch):
            fitting.append(number)
        for (part, index), numbers in by_profile.items():
            # an input without pictures does not run the vision tower
            if part == "vision" and not batch.groups:
                continue
            if backend.with_profile(part, index).takes(batch):
                numbers.append(number)
    if not fitting:
        raise BackendError(
            "no golden input fits the plans' profiles; "
            "build plans for larger inputs: lame-export engine --profile"
        )
    return fitting, by_profile


def _profile_rows(
    encoder: Embeds,
    backend: ProfiledBackend,
    golden: Golden,
    by_profile: dict[Profile, list[int]],
) -> list[Result]:
    """Returns one row per profile.

    By default the backend runs an input in the first profile that it fits, so the kernels of other
    profiles might run for the first time on a user's input.
    """
    rows = []
    for (part, index), numbers in by_profile.items():
        note = f"{part} profile {index + 1} of {backend.profiles[part]}"
        if not numbers:
            # reported without a gate: plans may have profiles beyond the golden inputs
            reason = "no golden input fits"
            comparison = f"graph vs PyTorch, {note}"
            row = Result(comparison, encoder.graph, "mixed", 0, None, {"inputs": 0}, None, reason)
            rows.append(row)
            continue
        # single inputs repeat the same shapes, so that recorded CUDA graphs are replayed as well
        batch_size = 1 if backend.cuda_graphs else BATCH_SIZE
        restricted = encoder.with_backend(backend.with_profile(part, index))
        subset = golden.subset(numbers)
        rows.append(profile_row(restricted, subset, note, batch_size))
    return rows


def _certificate_files(build: Build, bundle: Bundle, backend: ProfiledBackend) -> list[Path]:
    """Returns the possible paths of this device's certificate, in order of preference."""
    # replayed CUDA graphs are proved separately, so both certificates can exist
    suffix = "-graphs" if backend.cuda_graphs else ""
    name = f"device-{backend.gpu.uuid[:12]}{suffix}.json"
    return [folder / name for folder in build.certificate_folders(bundle)]


def _write_first(files: list[Path], text: str) -> Path | None:
    """Writes the first file that is writable and returns it; None if no file is."""
    for path in files:
        # if no folder is writable, plans are proved at each load
        with contextlib.suppress(StorageError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_text(path, text)
            return path
    return None


def _passed_before(build: Build, bundle: Bundle, backend: ProfiledBackend) -> bool:
    """Returns whether the newest certificate of these plans on this device has passed."""
    newest: tuple[str, bool] | None = None
    for path in _certificate_files(build, bundle, backend):
        report = read_device_report(path)
        if report is None or report.files != build.facts.files:
            continue
        if report.device == device_of(backend):
            # if two have the same date, the failed one counts
            outcome = (report.date, not report.passed)
            newest = outcome if newest is None else max(newest, outcome)
    return newest is not None and not newest[1]
