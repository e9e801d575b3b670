"""TensorRT plans of a bundle: where they lie, what they were built for, and whether they fit here.

    ENGINES/GRAPH.PROFILE.KEY/   vision.plan, encoder.plan, build.json, and device-UUID.json,
                                 the outcome of the golden vectors on one device

ENGINES is `BUNDLE/engines`, or a folder of the user's cache if the bundle is read-only. A plan
belongs to one graph, TensorRT version and GPU, and it is code that runs with its user's rights.
`build.json` therefore carries a signature (an HMAC) made with a key that only this account on this
machine has; plans without it are not loaded unless `trust_plans` asks for that.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from lame_runtime.backends.tensorrt.signature import sign
from lame_runtime.bundle.bundle import PARTS, Bundle
from lame_runtime.bundle.engine_files import (
    PlanHashes,
    matching_files,
    read_device_report,
    read_engine_file,
)
from lame_runtime.bundle.manifest import FileName, GraphName, sha256_file
from lame_runtime.errors import BackendError, StorageError, shown
from lame_runtime.files.constraints import Between, Length, Line, Name, Sha256, Text

FORMAT_VERSION = 2
VERSION = r"\d{1,9}(\.\d{1,9}){0,2}|\d{1,9}(\.\d{1,9}){2}(\.[\w+-]+)+"
Size = Annotated[int, Between(0, 1 << 40)]
AS_EXPORTED = "as exported"
"""The fallback level at which nothing is changed; see `lame_export.engine.fallback_levels`."""
AMPERE = 80
"""Compute capability, times ten, from which on hardware-compatible plans run."""


@dataclass(frozen=True)
class DeviceKey:
    """TensorRT and GPU of this machine, which decide which plans run."""

    module: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    gpu: str
    capability: str
    """Compute capability, such as "sm87"."""


@dataclass(frozen=True)
class PlanFacts:
    """Everything that `build.json` says about two plans."""

    graph: GraphName
    """The graph that the plans stand for."""
    built_graph: GraphName
    """The graph they were built from; the last fallback level builds "fp32" instead."""
    graph_files: Annotated[dict[FileName, Sha256], Length(1000)]
    """sha256 of the graph's files when the plans were built."""
    module: Name
    version: Annotated[str, Text(50, pattern=VERSION)]
    """TensorRT's module and version."""
    gpu: Name | None
    """Name of the GPU; None for plans that TensorRT-RTX built for a compute capability."""
    capability: Name
    profile: Line
    """Name of the kind of profiles, or of the file that they were read from."""
    profiles: Annotated[dict[Name, list[dict[Name, list[Size]]]], Length(10)]
    """Ranges of each dimension (least, usual, most), per part and profile."""
    flags: Annotated[list[Name], Length(100)]
    """Builder flags: "version-compatible", "hardware-compatible", "weight-stripped"."""
    optimization_level: Annotated[int, Between(0, 100)] | None
    workspace: Annotated[int, Between(0, 1 << 50)] | None
    """Bytes that a layer may use; None for all."""
    level: Line
    """The fallback level."""
    files: PlanHashes
    """sha256 of "vision.plan" and "encoder.plan"."""
    date: Annotated[str, Text(100, printable=True)] = ""
    signature: Annotated[str, Text(64, pattern="[0-9a-f]*")] = ""
    format_version: Annotated[int, Between(FORMAT_VERSION, FORMAT_VERSION)] = FORMAT_VERSION

    @property
    def fallback(self) -> str:
        """Description of the fallback that runs; empty if the graph runs as it was exported."""
        if self.level == AS_EXPORTED:
            return ""
        other = f", graph {self.built_graph}" if self.built_graph != self.graph else ""
        return f"fallback: {self.level}{other}"

    @property
    def version_numbers(self) -> tuple[int, ...]:
        """Major, minor and patch version of TensorRT."""
        return _version_numbers(self.version)

    def to_json(self) -> str:
        """Returns the text of `build.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Build:
    """The two plans of one build."""

    folder: Path
    facts: PlanFacts

    def certificate_folders(self, bundle: Bundle) -> list[Path]:
        """Returns where devices' certificates of the plans may lie: beside them, or cached."""
        cached = [folder / self.folder.name for folder in engine_folders(bundle)[1:]]
        return list(dict.fromkeys([self.folder, *cached]))

    def failed_somewhere(self, bundle: Bundle) -> bool:
        """Whether the golden vectors were not met on some device; such builds are tried last."""
        for folder in self.certificate_folders(bundle):
            for path in matching_files(folder, "device*.json"):
                report = read_device_report(path)
                # a damaged certificate says nothing; plans are proved again before they are used
                if report and report.files == self.facts.files and not report.passed:
                    return True
        return False

    def unusable(self, bundle: Bundle, device: DeviceKey, *, trust: bool) -> str | None:
        """Returns why the build cannot be used on a device, or None if it can."""
        return (
            (None if trust else self._untrusted())
            or self._outdated(bundle)
            or self._unfit(device)
            or self._damaged()
        )

    def _untrusted(self) -> str | None:
        try:
            ours = hmac.compare_digest(self.facts.signature.encode(), sign(self.facts).encode())
        except StorageError as error:
            return str(error)
        if ours:
            return None
        return (
            "not built by this account on this machine; a plan is code: build it here, "
            "or trust it with `trust_plans=True`"
        )

    def _outdated(self, bundle: Bundle) -> str | None:
        hashes = bundle.graph_hashes(self.facts.built_graph)
        # a graph that the bundle does not have equals a build that lists no files
        if hashes and self.facts.graph_files == hashes:
            return None
        return "the graph has been exported again since"

    def _unfit(self, device: DeviceKey) -> str | None:
        facts = self.facts
        if facts.module != device.module or not self._runs_in(device.version):
            built_by = f"{facts.module} {facts.version}"
            return f"built by {built_by}, this is {device.module} {device.version}"
        if not self._runs_on(device):
            built_for = facts.gpu or facts.capability
            return f"built for {built_for}, this is {device.gpu} ({device.capability})"
        return None

    def _damaged(self) -> str | None:
        for part in PARTS:
            name = f"{part}.plan"
            try:
                intact = sha256_file(self.folder / name) == self.facts.files[name]
            except OSError as error:
                return f"{part}.plan cannot be read ({error.strerror})"
            if not intact:
                return f"{part}.plan is not the file that was built"
        return None

    def _runs_in(self, version: str) -> bool:
        """Whether a TensorRT version reads the plans: its own, or compatible ones of its major
        version.
        """
        if self.facts.version == version:
            return True
        built, current = self.facts.version_numbers, _version_numbers(version)
        compatible = "version-compatible" in self.facts.flags
        return compatible and built[0] == current[0] and built <= current

    def _runs_on(self, device: DeviceKey) -> bool:
        if "hardware-compatible" in self.facts.flags:
            return int(device.capability.removeprefix("sm")) >= AMPERE
        same_capability = self.facts.capability == device.capability
        # TensorRT-RTX builds for a capability without the GPU, and any GPU of it will do
        return same_capability and self.facts.gpu in (None, device.gpu)


def cache_folder() -> Path | None:
    """Returns the folder of the user's cache for plans; None for an account without a home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        # no HOME, and the system does not know the account
        return None
    return cache / "lame" / "engines"


def engine_folders(bundle: Bundle) -> list[Path]:
    """Returns where plans of a bundle may lie: in it, and in the user's cache if there is one."""
    cache = cache_folder()
    cached = [] if cache is None else [cache / bundle.manifest.sha256[:16]]
    return [bundle.folder / "engines", *cached]


def engine_folder(bundle: Bundle) -> Path:
    """Returns where new plans go: into the bundle, or into the cache if the bundle is read-only.

    Raises:
        StorageError: the bundle is read-only and the account has no cache.
    """
    inside, *cached = engine_folders(bundle)
    if os.access(inside if inside.is_dir() else bundle.folder, os.W_OK):
        return inside
    if not cached:
        raise StorageError(
            f"{shown(bundle.folder)}: is read-only, and this account has no home for a cache; "
            "set XDG_CACHE_HOME, or choose a folder with `output`"
        )
    return cached[0]


def builds(
    bundle: Bundle, graph: str, engines: str | os.PathLike[str] | None = None
) -> Iterator[Build]:
    """Yields the builds of a graph, the newest first, those that failed on some device last.

    Args:
        bundle: the bundle.
        graph: name of the graph.
        engines: folder of the plans; None looks in the bundle and in the user's cache.
    """
    if graph not in bundle.graphs:
        return
    folders = engine_folders(bundle) if engines is None else [Path(engines)]
    readable = []
    for folder in folders:
        for path in matching_files(folder, "*/build.json"):
            facts = read_facts(path)
            if facts is not None and facts.graph == graph:
                readable.append(Build(path.parent, facts))

    def rank(build: Build) -> tuple[bool, str]:
        return not build.failed_somewhere(bundle), build.facts.date

    yield from sorted(readable, key=rank, reverse=True)


def read_facts(path: Path) -> PlanFacts | None:
    """Reads a `build.json`; returns None for one that cannot be read or has another format.

    A folder with such a file is not a build: another version of LaME may have written it.
    """
    facts = read_engine_file(PlanFacts, path)
    # no other name, because each is hashed below the build's folder
    return facts if facts and set(facts.files) == {f"{part}.plan" for part in PARTS} else None


def find_build(
    bundle: Bundle,
    graph: str,
    device: DeviceKey,
    *,
    trust: bool = False,
    engines: str | os.PathLike[str] | None = None,
) -> Build:
    """Returns the newest build of a graph that can be used on a device.

    Args:
        bundle: the bundle.
        graph: name of the graph.
        device: TensorRT and GPU.
        trust: whether to take plans that another account or machine built.
        engines: folder of the plans; None looks in the bundle and in the user's cache.

    Raises:
        BackendError: there is none; the message says why each cannot be used, and how to build one.
    """
    reasons = []
    for build in builds(bundle, graph, engines):
        reason = build.unusable(bundle, device, trust=trust)
        if reason is None:
            return build
        reasons.append(f"{build.folder.name}: stale, {reason}")
    summary = "; ".join(reasons) or "none was built"
    raise BackendError(
        f"{shown(bundle.folder)}: no {graph} plan for {device.module} {device.version} "
        f"on {device.gpu} ({summary}); "
        f"build one here: lame-export engine {shown(bundle.folder)} --graph {graph}"
    )


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
