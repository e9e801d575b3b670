"""Times the paradigms at one batch size and prompt length, by PLUME's protocol.

The protocol (arXiv 2604.02073, table 2) is: warm-up batches, then draws over the inputs, in which
the paradigms take turns. A figure is the median of the draws. A ratio is the median of the ratios
inside each draw, so that a machine that grows slower for a while slows both sides.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from lame_training.model.lame import LaMEModel
from lame_training.studies.paradigms.baselines import (
    Discriminative,
    ExplicitCoT,
    LaME,
    LatentRollout,
    Program,
)
from lame_training.studies.paradigms.language_model import LanguageModel
from lame_training.studies.paradigms.peak_memory import PeakMemory, unless_out_of_memory
from lame_training.studies.paradigms.prompts import Modality, Prompts, make_prompts

SHORTEST_DRAW = 1.0
"""Shortest time of a paradigm in a draw, in seconds.

A draw repeats its inputs until then: one batch of a fast paradigm is too short to time.
"""
STEP_ROWS = 16
"""Rows of a batch below which a decode step does not get cheaper, for the progress bar.

Such a step waits for the weights, not for arithmetic.
"""
NAMES = (Discriminative.name, LaME.name, LatentRollout.name, ExplicitCoT.name)
"""Names of the paradigms, in the order of reports."""
OnBatch = Callable[[], object]
"""Called after each batch, to move a progress bar."""


@dataclass(frozen=True)
class Protocol:
    """The sizes to measure, the work of each paradigm, and the number of repetitions."""

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (64, 256, 1024)
    """Prompt lengths in positions."""
    tokens: int = 403
    """Tokens of the explicit chain of thought."""
    latent_steps: int = 8
    """Steps of the latent rollout."""
    inputs: int = 500
    """Inputs of a draw, rounded up to whole batches."""
    warmup: int = 20
    """Batches before the first draw, 1 or more: peak memory is measured in the first."""
    draws: int = 5
    modality: Modality = "text"


@dataclass(frozen=True)
class Timing:
    """One paradigm in one cell. Without draws, the paradigm ran out of memory."""

    draws_ms: tuple[float, ...]
    """Milliseconds per sample of each draw."""
    memory_mib: float | None
    """Peak memory beyond weights and inputs in MiB; None if the system does not report it."""

    @property
    def ms(self) -> float:
        """Milliseconds per sample: the median of the draws."""
        return statistics.median(self.draws_ms)


@dataclass(frozen=True)
class Cell:
    """Timings of all paradigms at one batch size and prompt length, by the paradigm's name."""

    batch_size: int
    length: int
    timings: dict[str, Timing]

    def ratio(self, name: str, to: str) -> float | None:
        """Returns the time of `name` as a multiple of that of `to`; None if either has none."""
        # not strict: a paradigm that ran out of memory has no draws
        pairs = list(zip(self.timings[name].draws_ms, self.timings[to].draws_ms, strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


class CellBenchmark:
    """Measures cells on one model.

    Args:
        model: the model in the dtype and on the device to measure. The projections of its language
            model become views of joined weights, with the same values.
        protocol: what to measure.
        compiled: run the blocks through `torch.compile`.
    """

    def __init__(self, model: LaMEModel, protocol: Protocol, *, compiled: bool) -> None:
        self.model = model.eval()
        self.protocol = protocol
        self.device = model.embed_1D.device
        self.language = LanguageModel(model.backbone.language_model, compiled=compiled)

    def builders(self) -> dict[str, Callable[[Prompts], Program]]:
        """Returns a function per paradigm that lays out its program for prompts of one shape."""
        model, language, protocol = self.model, self.language, self.protocol
        return {
            Discriminative.name: lambda template: Discriminative(model, language, template),
            LaME.name: lambda template: LaME(model, language, template),
            LatentRollout.name: lambda template: LatentRollout(
                model, language, template, protocol.latent_steps
            ),
            ExplicitCoT.name: lambda template: ExplicitCoT(
                model, language, template, protocol.tokens
            ),
        }

    def batch_costs(self, batch_size: int, length: int) -> dict[str, int]:
        """Returns the rough cost of one batch per paradigm, in positions, for the progress bar."""
        # K + 1 positions more or less do not matter to a progress bar
        prefill = batch_size * length
        step = max(batch_size, STEP_ROWS)
        steps = {
            LatentRollout.name: self.protocol.latent_steps,
            ExplicitCoT.name: self.protocol.tokens,
        }
        return {name: prefill + step * steps.get(name, 0) for name in NAMES}

    def batches_per_cell(self, batch_size: int) -> int:
        """Returns how many batches a paradigm reads in one cell, without repetitions in a draw."""
        return self.protocol.warmup + self.protocol.draws * self._batches_per_draw(batch_size)

    def _batches_per_draw(self, batch_size: int) -> int:
        return -(-self.protocol.inputs // batch_size)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Runs each paradigm once on a short prompt.

        Libraries allocate workspaces at their first call, which would otherwise count as memory of
        the first cell.
        """
        (prompts,) = make_prompts(self.model, 1, 1, 32, self.protocol.modality)
        for name, build in self.builders().items():
            if name == ExplicitCoT.name:
                # two tokens run every kernel; the protocol's number would take long on a CPU
                ExplicitCoT(self.model, self.language, prompts, 2)(prompts)
            else:
                build(prompts)(prompts)

    @torch.inference_mode()
    def measure(
        self, batch_size: int, length: int, tick: Callable[[int], object] = lambda _: None
    ) -> Cell:
        """Measures one cell.

        Args:
            batch_size: B.
            length: L.
            tick: called after each batch with its share of `batch_costs`, for a progress bar.

        Raises:
            UsageError: `length` has no room for a picture and text.
        """
        protocol = self.protocol
        on_batch: dict[str, OnBatch] = {
            name: partial(tick, cost) for name, cost in self.batch_costs(batch_size, length).items()
        }
        # The programs of the cell before are in reference cycles, through their bound segments;
        # without a collection their memory would be held while this cell is measured.
        gc.collect()
        make = partial(
            make_prompts,
            self.model,
            self._batches_per_draw(batch_size),
            batch_size,
            length,
            protocol.modality,
            seed=length,
        )
        # with pictures, the prompts alone may not fit; then no paradigm is measured
        batches = unless_out_of_memory(make) or []
        memory: dict[str, float | None] = {}
        draws: dict[str, list[float]] = {name: [] for name in NAMES}
        programs: dict[str, Program] = {}
        for name, build in self.builders().items() if batches else ():
            start = partial(self._start_program, build, batches, on_batch[name])
            started = unless_out_of_memory(start)
            if started is not None:
                programs[name], memory[name] = started
        for number in range(protocol.draws):
            # every other draw backward: a drift of the machine cancels out over two draws
            milliseconds = self._draw(programs, batches, on_batch, backward=number % 2 == 1)
            for name, ms in milliseconds.items():
                draws[name].append(ms)
        # A program that was dropped halfway has figures of some draws only, which would be paired
        # with others' draws.
        for name in draws.keys() - programs.keys():
            draws[name].clear()
        timings = {name: Timing(tuple(draws[name]), memory.get(name)) for name in NAMES}
        return Cell(batch_size, length, timings)

    def _start_program(
        self, build: Callable[[Prompts], Program], batches: list[Prompts], on_batch: OnBatch
    ) -> tuple[Program, float | None]:
        """Returns a program after its warm-up, and its peak memory in MiB."""
        with PeakMemory(self.device) as peak:
            program = build(batches[0])
            program(batches[0])
        on_batch()
        # After the first run, because a capture can neither compile nor set up libraries. So the
        # peak is that of a run without graphs.
        if self.device.type == "cuda":
            program.capture()
        for number in range(1, self.protocol.warmup):
            program(batches[number % len(batches)])
            on_batch()
        return program, peak.mib

    def _draw(
        self,
        programs: dict[str, Program],
        batches: list[Prompts],
        on_batch: dict[str, OnBatch],
        *,
        backward: bool,
    ) -> dict[str, float]:
        """Makes one draw; returns milliseconds per sample by paradigm.

        The programs take turns with one pass over the batches each, until each has run for
        `SHORTEST_DRAW`. A program that no longer fits into memory is removed from `programs`.
        """
        order = [*reversed(programs)] if backward else [*programs]
        seconds = dict.fromkeys(order, 0.0)
        passes = dict.fromkeys(order, 0)

        def is_pending(name: str) -> bool:
            # one pass at least, however short the shortest draw is
            return name in programs and (passes[name] == 0 or seconds[name] < SHORTEST_DRAW)

        while pending := [name for name in order if is_pending(name)]:
            for name in pending:
                # the progress bar counts first passes; how many follow is not known beforehand
                callback = _ignore_batch if passes[name] else on_batch[name]
                run = partial(self._time_pass, programs[name], batches, callback)
                duration = unless_out_of_memory(run)
                if duration is None:
                    del programs[name]
                else:
                    seconds[name] += duration
                    passes[name] += 1
        inputs = sum(len(prompts.ids_BL) for prompts in batches)
        return {name: 1000 * seconds[name] / (passes[name] * inputs) for name in programs}

    def _time_pass(self, program: Program, batches: list[Prompts], on_batch: OnBatch) -> float:
        """Returns the seconds that a program takes for all batches."""
        self._synchronize()
        start = time.perf_counter()
        for prompts in batches:
            program(prompts)
            on_batch()
        # a GPU is still working when the calls have returned
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _ignore_batch() -> None:
    """Does nothing: the callback of passes that the progress bar does not count."""
