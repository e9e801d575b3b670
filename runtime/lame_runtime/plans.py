"""TensorRT plans of a bundle: where they lie, what they say of themselves, and whether they are for this device.

ENGINES/GRAPH.PROFILE.KEY/   vision.plan  encoder.plan  build.json  device-UUID.json (what verification found on a device)

ENGINES is `BUNDLE/engines`, or a folder of the user's cache where the bundle is read-only. A plan belongs to one graph,
TensorRT version and GPU, and it is code that runs with its user's rights: `build.json` is sealed with a key that only
this account on this machine has, and what is not sealed with it is not loaded unless that was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lame_runtime.bundle import PARTS, Bundle
from lame_runtime.contract.manifest import sha256_file
from lame_runtime.errors import BackendError, InputError

FORMAT_VERSION = 1
AS_EXPORTED = "as exported"
"""The ladder's lowest rung; the others are fallbacks."""
_AMPERE = 80
_KEY_BYTES = 32


@dataclass(frozen=True)
class Here:
    """What runs plans on this machine."""

    module: str
    """"tensorrt" or "tensorrt_rtx"."""
    version: str
    gpu: str
    capability: str
    """As in "sm87"."""


@dataclass(frozen=True)
class Build:
    """The two plans of one build."""

    folder: Path
    facts: dict[str, Any]
    """`build.json`: graph, built_graph (another one on the ladder's last rung), rung, graph_files, module, version, gpu,
    capability, profile, flags, files, seal and more."""

    @property
    def fallback(self) -> str:
        """What runs where the graph as it was exported was not right here; empty where that is what runs."""
        if self.facts["rung"] == AS_EXPORTED:
            return ""
        graph = self.facts["built_graph"]
        return f"fallback: {self.facts['rung']}" + (f", graph {graph}" if graph != self.facts["graph"] else "")

    def plan(self, part: str) -> Path:
        """Path of one plan."""
        return self.folder / f"{part}.plan"

    def places(self, bundle: Bundle) -> list[Path]:
        """Where devices' certificates of these plans lie: beside them, or in the user's cache where that cannot be written."""
        cached = [folder / self.folder.name for folder in engine_folders(bundle)[1:]]
        return list(dict.fromkeys([self.folder, *cached]))

    def refused(self, bundle: Bundle) -> bool:
        """Whether the golden vectors were not met on some device; tried last."""
        for path in (path for place in self.places(bundle) for path in place.glob("device*.json")):
            try:
                report = json.loads(path.read_text(encoding="utf-8"))
                if report["files"] == self.facts["files"] and not report["passed"]:
                    return True
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return False

    def unusable(self, bundle: Bundle, here: Here, *, trust: bool) -> str | None:
        """Why the build cannot be used here; None where it can."""
        facts = self.facts
        if not trust:
            try:
                ours = hmac.compare_digest(str(facts.get("seal", "")).encode(), seal(facts).encode())
            except InputError as error:
                return str(error)
            if not ours:
                return "not built by this account on this machine; a plan is code: build it here, or trust it with --trust-plans"
        if facts["built_graph"] not in bundle.graphs or facts["graph_files"] != graph_hashes(bundle, facts["built_graph"]):
            return "the graph was exported anew since"
        if facts["module"] != here.module or (facts["version"] != here.version and not self._reads(here)):
            return f"built by {facts['module']} {facts['version']}, this is {here.module} {here.version}"
        if not self._runs_on(here):
            return f"built for {facts['gpu'] or facts['capability']}, this is {here.gpu} ({here.capability})"
        for part in PARTS:
            try:
                same = sha256_file(self.plan(part)) == facts["files"][f"{part}.plan"]
            except OSError as error:
                return f"{part}.plan cannot be read ({error.strerror})"
            if not same:
                return f"{part}.plan is not the file that was built"
        return None

    def _reads(self, here: Here) -> bool:
        """A version-compatible plan runs on later versions of the same major one."""
        built, now = (tuple(int(part) for part in version.split(".")[:3]) for version in (self.facts["version"], here.version))
        return "version-compatible" in self.facts["flags"] and built[0] == now[0] and built <= now

    def _runs_on(self, here: Here) -> bool:
        if "hardware-compatible" in self.facts["flags"]:
            return int(here.capability.removeprefix("sm")) >= _AMPERE
        if self.facts["gpu"] is None:  # TensorRT-RTX builds for a capability, without the GPU
            return bool(self.facts["capability"] == here.capability)
        return bool(self.facts["gpu"] == here.gpu and self.facts["capability"] == here.capability)


def cache_folder() -> Path | None:
    """Where the user's cache holds plans of read-only bundles; None for an account without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lame" / "engines"
    except RuntimeError:  # no HOME, and the system does not know the account
        return None


def engine_folders(bundle: Bundle) -> list[Path]:
    """Where plans of a bundle may lie: in it, or in the user's cache, if there is one."""
    cache = cache_folder()
    return [bundle.folder / "engines", *([cache / bundle.manifest["sha256"][:16]] if cache else [])]


def engine_folder(bundle: Bundle) -> Path:
    """Where new plans go: into the bundle, or into the cache where the bundle is read-only; raises `InputError` without one."""
    inside, *cached = engine_folders(bundle)
    if os.access(inside if inside.is_dir() else bundle.folder, os.W_OK):
        return inside
    if not cached:
        raise InputError(f"{bundle.folder}: is read-only, and this account has no home for a cache; set XDG_CACHE_HOME or use --out")
    return cached[0]


def graph_hashes(bundle: Bundle, graph: str) -> dict[str, str]:
    """sha256 of the files of a graph, as the manifest lists them."""
    return {name: bundle.manifest["files"][name] for name in bundle.graph_files(graph)}


def builds(bundle: Bundle, graph: str, engines: Path | None = None) -> Iterator[Build]:
    """Builds of a graph below `engines` or where they usually lie, the newest first; without a readable `build.json` it is none."""
    found = []
    for folder in engine_folders(bundle) if engines is None else (engines,):
        for path in folder.glob("*/build.json"):
            try:
                facts = json.loads(path.read_text(encoding="utf-8"))
                if _whole(facts) and facts["graph"] == graph:
                    found.append(Build(path.parent, facts))
            except (OSError, ValueError):
                continue
    yield from sorted(found, key=lambda build: (not build.refused(bundle), str(build.facts["date"])), reverse=True)


def _whole(facts: Any) -> bool:
    """Whether all fields are there, and of their types."""
    if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
        return False
    texts = ("graph", "built_graph", "module", "version", "capability", "date", "rung")
    kinds = {**dict.fromkeys(texts, str), "graph_files": dict, "files": dict, "flags": list}
    right = all(isinstance(facts.get(name), kind) for name, kind in kinds.items())
    numbers = right and all(part.isdigit() for part in facts["version"].split(".")[:3])
    return numbers and "gpu" in facts and {f"{part}.plan" for part in PARTS} <= set(facts["files"])


def find_build(bundle: Bundle, graph: str, here: Here, *, trust: bool = False, engines: Path | None = None) -> Build:
    """The newest build of a graph that can be used here.

    Args:
        bundle: opened.
        graph: its name.
        here: TensorRT and GPU.
        trust: take plans that were built elsewhere.
        engines: where plans lie; None looks where they usually do.

    Raises:
        BackendError: there is none; the message says of each why not, and how to build one.
    """
    reasons = []
    for build in builds(bundle, graph, engines):
        reason = build.unusable(bundle, here, trust=trust)
        if reason is None:
            return build
        reasons.append(f"{build.folder.name}: stale, {reason}")
    told = "; ".join(reasons) or "none was built"
    raise BackendError(
        f"{bundle.folder}: no {graph} plan for {here.module} {here.version} on {here.gpu} ({told}); "
        f"build one here: lame-export engine {bundle.folder} --graph {graph}"
    )


def seal(facts: dict[str, Any]) -> str:
    """What only this account on this machine can write below these facts; raises `InputError` without a place for the key."""
    body = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True, separators=(",", ":"))
    return hmac.new(_key(), body.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The account's key, made when it is first needed."""
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # no HOME, and the system does not know the account
        raise InputError("this account has no home for the key that seals plans; set XDG_STATE_HOME") from None
    path = state / "lame" / "plan-key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            handle, fresh = tempfile.mkstemp(dir=path.parent)  # readable by this account alone
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(fresh, path)
            Path(fresh).unlink()
        key = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the key that seals plans cannot be kept ({error.strerror}); set XDG_STATE_HOME") from None
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path}: is damaged; remove it and build the plans again")
    return key
