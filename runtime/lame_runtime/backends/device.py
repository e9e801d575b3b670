"""Facts about one GPU, as plans and device certificates record them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU, its driver and the CUDA library that this process talks to it with."""

    name: str
    """Marketing name, such as "NVIDIA H100 80GB HBM3" or "Orin"."""
    uuid: str
    """32 hex digits, without the "GPU-" and the dashes that nvidia-smi shows."""
    capability: str
    """Compute capability, such as "sm87"."""
    driver: str
    """Newest CUDA version that the driver supports, such as "12.6"."""
    runtime: str
    """CUDA version of the loaded libcudart, such as "12.6"."""
    release: str = ""
    """The driver's own version as the system reports it; empty if it reports none."""
