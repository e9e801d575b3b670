"""A whole run: the model, cell after cell with a progress bar, saved after each, continued where it was stopped."""

from __future__ import annotations

import datetime
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lame_runtime.errors import InputError
from tqdm import tqdm

from lame_training import __version__
from lame_training.backbones import load_backbone
from lame_training.environment import commit
from lame_training.model import LaMEModel
from lame_training.paradigms.measure import Bench, Protocol
from lame_training.paradigms.report import FILE, Report, continued
from lame_training.paradigms.shapes import head_share, random_backbone, shape_config

N_REASON = 8


@dataclass(frozen=True)
class Setup:
    """What runs, and how."""

    backbone: Path | None
    """A local folder; None takes random weights of `shape` and `family`."""
    shape: str
    family: str
    device: torch.device
    dtype: torch.dtype
    compiled: bool
    protocol: Protocol


class Run:
    """Measures a protocol's cells; `report` holds what is complete at any time.

    Args:
        setup: what runs.
        out: where results are saved after every cell; None keeps them in memory.
        resume: keep the cells that `out` holds.

    Raises:
        InputError: no such shape, backbone or device; `out` holds other results or cannot be written.
    """

    def __init__(self, setup: Setup, out: Path | None, *, resume: bool = False) -> None:
        if setup.device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: torch finds no GPU here; use --device cpu")
        if out is not None and (out / FILE).exists() and not resume:
            raise InputError(f"{out / FILE}: already exists; continue it with --resume or choose another folder for --out")
        self.out, self.protocol = out, setup.protocol
        if setup.backbone is None:
            backbone = random_backbone(shape_config(setup.shape, setup.family), setup.device, setup.dtype)
            name = f"{setup.family}, {setup.shape}, random weights"
        else:
            backbone = load_backbone(setup.backbone, setup.dtype).to(setup.device)
            name = f"{backbone.config.model_type}, {setup.backbone.resolve().name}"
        model = LaMEModel(backbone, None, N_REASON, backbone.config.text_config.hidden_size).requires_grad_(requires_grad=False)
        for rows in (model.reason_KD, model.embed_1D):
            torch.nn.init.normal_(rows, std=0.02)
        self.bench = Bench(model.to(setup.device), setup.protocol, compiled=setup.compiled)
        settings = _settings(setup, name, model)
        self.report = continued(out, settings) if resume and out is not None else Report(settings)
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{out}: cannot be made ({error.strerror}); choose another place") from None
            self.report.save(out)

    def measure(self, *, progress: bool = True) -> None:
        """Every cell that the report lacks, small ones first. The time left is an estimate from the work done so far."""
        done = {(cell.batch_size, cell.length) for cell in self.report.cells}
        places = [(b, n) for b in self.protocol.batch_sizes for n in self.protocol.lengths if (b, n) not in done]
        costs = {place: self.bench.runs(place[0]) * sum(self.bench.work(*place).values()) for place in places}
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left"
        with tqdm(total=sum(costs.values()), disable=not progress, bar_format=form) as bar:
            bar.set_description("preparing")
            self.bench.prepare()
            reached = 0.0
            for place in places:
                bar.set_description(f"batch {place[0]}, L {place[1]:,}")
                cell = self.bench.measure(*place, tick=bar.update)
                self.report = self.report.with_cell(cell)
                reached += costs[place]
                bar.update(reached - bar.n)  # a paradigm that ran out of memory did not do its share
                if self.out is not None:
                    self.report.save(self.out)


def _settings(setup: Setup, backbone: str, model: LaMEModel) -> dict[str, Any]:
    """What all figures of a report share."""
    parts = {"language_model": model.backbone.language_model, "vision": model.backbone.visual}
    protocol = asdict(setup.protocol)
    del protocol["batch_sizes"], protocol["lengths"]
    return {
        "backbone": backbone,
        "parameters": {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items()},
        "n_reason": model.n_reason,
        "head_share": head_share(model.backbone.config),
        "head_share_2b": head_share(shape_config("2b", "qwen2_vl")),
        "dtype": str(setup.dtype).removeprefix("torch."),
        "device": setup.device.type,
        "compiled": setup.compiled,
        **protocol,
        "machine": torch.cuda.get_device_name(setup.device) if setup.device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "version": __version__,
        "commit": commit(),
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
    }


def _processor() -> str:
    """The CPU's name as Linux gives it, or as Python does, and its cores."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.is_file() else None
    return f"{found[1] if found else platform.processor() or platform.machine()} ({os.cpu_count()} cores)"
