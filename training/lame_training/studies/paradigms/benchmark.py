"""A whole run: opens the model, measures one cell after the other, and saves after each.

A run that was stopped continues with the cells that are missing.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import StorageError, UsageError
from lame_runtime.progress import progress_bar
from transformers import PreTrainedModel

from lame_training import __version__
from lame_training.evaluation.suites.folders import make_folder
from lame_training.fixtures.random_backbone import head_share, random_backbone, shape_config
from lame_training.model.backbones import load_backbone
from lame_training.model.lame import LaMEModel
from lame_training.run.environment import commit
from lame_training.studies.paradigms.measure import CellBenchmark, Protocol
from lame_training.studies.paradigms.report import FILE, Report, resume_report

N_REASON = 8
"""K. The rollout has the same number of steps by default, see `Protocol`."""
TERMINAL_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left"
"""Format of the progress bar. It shows no counts, because its unit is only an estimate of work."""


@dataclass(frozen=True)
class Setup:
    """The model, the machine and the protocol of a run."""

    backbone: Path | None
    """Local folder of a backbone; None takes random weights of `shape` and `family`."""
    shape: str
    family: str
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    """Whether the blocks run through `torch.compile`."""
    protocol: Protocol


class Run:
    """Measures the cells of a protocol; `report` holds those that are complete at any time.

    Args:
        setup: what is measured, and on what.
        output: folder that results are saved to after every cell; None keeps them in memory.
        resume: keep the cells that `output` holds.

    Raises:
        UsageError: the shape or the device does not exist, or `output` holds results of other
            settings.
        StorageError: `output` holds a report already, or none to resume, or cannot be written.
        BundleError: the backbone's folder cannot be used.
    """

    def __init__(self, setup: Setup, output: Path | None, *, resume: bool = False) -> None:
        # before the backbone is loaded, which takes a while
        if setup.device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError("`device` is cuda, but PyTorch finds no GPU: use `device=cpu`")
        if output is not None and (output / FILE).exists() and not resume:
            raise StorageError(
                f"{output / FILE}: already exists; continue it with `resume=True`, "
                "or choose another `output`"
            )
        self.output = output
        self.protocol = setup.protocol
        backbone, name = _open_backbone(setup)
        # P = D makes the head the identity, so no projection is part of the comparison
        model = LaMEModel(backbone, None, N_REASON, backbone.config.text_config.hidden_size)
        model = model.requires_grad_(requires_grad=False)
        # `LaMEModel` allocates them without values
        for rows in (model.reason_KD, model.embed_1D):
            torch.nn.init.normal_(rows, std=0.02)
        model = model.to(setup.device)
        self.benchmark = CellBenchmark(model, setup.protocol, compiled=setup.compiled)
        self.report = Report(_settings(setup, name, model))
        if output is not None:
            if resume:
                self.report = resume_report(output, self.report.settings)
            # before measuring: a folder that cannot be written would cost the first cell
            make_folder(output, "output")
            self.report.save(output)

    def measure(self, *, progress: bool = True) -> None:
        """Measures every cell that the report lacks, the cheap ones first.

        Args:
            progress: show a progress bar on stderr. The time left is an estimate from the work
                that is done.

        Raises:
            StorageError: the report cannot be written.
            UsageError: a length has no room for a picture and text.
        """
        complete = {(cell.batch_size, cell.length) for cell in self.report.cells}
        missing = [
            (batch_size, length)
            for batch_size in self.protocol.batch_sizes
            for length in self.protocol.lengths
            if (batch_size, length) not in complete
        ]
        benchmark = self.benchmark
        costs = {
            (batch_size, length): benchmark.batches_per_cell(batch_size)
            * sum(benchmark.batch_costs(batch_size, length).values())
            for batch_size, length in missing
        }
        bar = progress_bar(
            total=sum(costs.values()),
            desc="preparing",
            unit="positions",
            disable=not progress,
            bar_format=TERMINAL_BAR,
        )
        with bar:
            benchmark.warm_up()
            completed_cost = 0
            for batch_size, length in missing:
                bar.set_description(f"batch {batch_size}, L {length:,}")
                cell = benchmark.measure(batch_size, length, tick=bar.update)
                self.report = self.report.with_cell(cell)
                # a paradigm that ran out of memory did not do its share of the ticks
                completed_cost += costs[batch_size, length]
                bar.update(completed_cost - bar.n)
                if self.output is not None:
                    self.report.save(self.output)


def _open_backbone(setup: Setup) -> tuple[PreTrainedModel, str]:
    """Returns the backbone on its device, and its name for the report."""
    if setup.backbone is None:
        config = shape_config(setup.shape, setup.family)
        backbone = random_backbone(config, setup.device, setup.dtype)
        return backbone, f"{setup.family}, {setup.shape}, random weights"
    backbone = load_backbone(setup.backbone, setup.dtype).to(setup.device)
    # resolved, so that a folder given as "." has a name as well
    return backbone, f"{backbone.config.model_type}, {setup.backbone.resolve().name}"


def _settings(setup: Setup, backbone: str, model: LaMEModel) -> dict[str, Any]:
    """Returns what all figures of a report share, with the keys of `paradigms.json`."""
    parts = {"language_model": model.backbone.language_model, "vision": model.backbone.visual}
    # A resumed run may have other sizes: cells of any size can share a report.
    protocol = asdict(setup.protocol)
    del protocol["batch_sizes"], protocol["lengths"]
    on_gpu = setup.device.type == "cuda"
    return {
        "backbone": backbone,
        "parameters": {
            name: sum(parameter.numel() for parameter in part.parameters())
            for name, part in parts.items()
        },
        "n_reason": model.n_reason,
        "head_share": head_share(model.backbone.config),
        "head_share_2b": head_share(shape_config("2b", "qwen2_vl")),
        "dtype": str(setup.dtype).removeprefix("torch."),
        "device": setup.device.type,
        "compiled": setup.compiled,
        **protocol,
        "machine": torch.cuda.get_device_name(setup.device) if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": __version__,
        "commit": commit(),
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
    }


def _cpu_name() -> str:
    """Returns the CPU's name and number of cores."""
    name = platform.processor() or platform.machine()
    # Linux knows the model; Python returns "x86_64" there, which would tell no machines apart
    info = Path("/proc/cpuinfo")
    if info.is_file():
        text = info.read_text(encoding="utf-8")
        match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            name = match[1]
    return f"{name} ({os.cpu_count()} cores)"
