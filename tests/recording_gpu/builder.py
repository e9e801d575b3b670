"""The builder: its "plans" are JSON that says which ONNX file to run, and for whom.

`make_tensorrt` derives `Builder` and `IBuilderConfig` for a version and a GPU.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recording_gpu.cudart import GpuMisuseError, RecordingCudart
from recording_gpu.enums import HardwareCompatibilityLevel, ILogger, IProgressMonitor, LayerType
from recording_gpu.network import INetworkDefinition, IOptimizationProfile


class IHostMemory(bytes):
    """Bytes that TensorRT made."""


class ITimingCache:
    """Measurements of earlier builds."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> IHostMemory:
        """Returns the bytes to keep."""
        return IHostMemory(self.content)


class IBuilderConfig:
    """Settings of a build."""

    def __init__(self, flags: set[Any]) -> None:
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.progress_monitor: IProgressMonitor | None = None
        self._pools: dict[Any, int] = {}
        self._flags = flags
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        """Limits a memory pool to a number of bytes."""
        self._pools[pool] = pool_size

    def set_flag(self, flag: Any) -> None:
        """Turns a flag on."""
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        """Turns a flag off."""
        self._flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Adds a profile and returns its index."""
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        """Returns a cache with the content of earlier builds, or an empty one."""
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Uses a cache; returns whether it fits this device."""
        del ignore_mismatch
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """Returns the cache in use."""
        return self._cache


class Builder:
    """Builds plans."""

    # Set by `make_tensorrt`, for a version and a GPU.
    _cudart: RecordingCudart
    _version: str
    _typed: int
    _config: Any
    _gpu: Any

    def __init__(self, logger: ILogger) -> None:
        if not self._cudart.devices:
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        """Returns an empty network.

        Before TensorRT 11, a network without the flag is one in which TensorRT chooses the
        precision.
        """
        if not flags & self._typed == self._typed:
            raise GpuMisuseError("a network that is not strongly typed")
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        """Returns settings with their defaults; TF32 is on."""
        config: IBuilderConfig = self._config()
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        """Returns an empty profile."""
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        """Returns the plan; None if the build was canceled."""
        names = {network.get_input(index).name for index in range(network.num_inputs)}
        for profile in config._profiles:
            if set(profile.shapes) != names:
                raise GpuMisuseError(f"a profile lacks {sorted(names - set(profile.shapes))}")
        if config.progress_monitor is not None and not self._report(config.progress_monitor):
            return None
        if config._cache is not None:
            config._cache.content += b"timed"
        for layer in network._layers:
            if layer.type is not LayerType.CAST:
                layer._check()
        flags = {flag.name for flag in config._flags}
        assert network.path is not None
        plan = {
            "onnx": network.path,
            "digest": digest(network.path),
            "outputs": [network.get_output(index).name for index in range(network.num_outputs)],
            "profiles": [profile.shapes for profile in config._profiles],
            "version": None if "VERSION_COMPATIBLE" in flags else self._version,
            "gpu": self._gpu() if config.hardware_compatibility_level.name == "NONE" else None,
            "stripped": "STRIP_PLAN" in flags,
            "flags": sorted(flags),
            "level": config.builder_optimization_level,
            "pools": {pool.name: size for pool, size in config._pools.items()},
            "casts": sum("[Cast]" in layer.name for layer in network._layers),
            "host_code": "VERSION_COMPATIBLE" in flags,
        }
        return IHostMemory(json.dumps(plan).encode())

    def _report(self, monitor: IProgressMonitor) -> bool:
        """Reports two phases to the monitor; returns False if it cancels the build."""
        for phase, steps in (("parse", 2), ("time", 3)):
            monitor.phase_start(phase, "build", steps)
            for step in range(steps):
                if not monitor.step_complete(phase, step):
                    self._logger.log(ILogger.Severity.ERROR, "the build was canceled")
                    return False
            monitor.phase_finish(phase)
        return True


def digest(path: str) -> str:
    """Returns the sha256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
