"""PLUME's protocol (arXiv 2604.02073, table 2): warm-ups, then draws over the inputs, in which the paradigms take turns.

A figure is the median of the draws; a ratio is the median of the ratios inside each draw, so that a machine that grows slower
for a while slows both sides.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from lame_training.model import LaMEModel
from lame_training.paradigms.baselines import Discriminative, ExplicitCoT, LaME, LatentRollout, Program
from lame_training.paradigms.language_model import LanguageModel
from lame_training.paradigms.memory import PeakMemory
from lame_training.paradigms.prompts import Modality, Prompts, make_prompts

SHORTEST_DRAW = 1.0
"""Seconds; a draw repeats its inputs until then, since one batch of a fast paradigm is too short to time."""
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")
T = TypeVar("T")
Tick = Callable[[], object]
NAMES = (Discriminative.name, LaME.name, LatentRollout.name, ExplicitCoT.name)


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how often."""

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (64, 256, 1024)
    tokens: int = 403
    latent_steps: int = 8
    inputs: int = 500
    """Per draw, rounded up to whole batches."""
    warmup: int = 20
    """Batches before the first draw, 1 or more: the first also tells the memory."""
    draws: int = 5
    modality: Modality = "text"


@dataclass(frozen=True)
class Timing:
    """One paradigm in one cell; without draws it ran out of memory."""

    draws_ms: tuple[float, ...]
    """Milliseconds per sample of each draw."""
    memory_mib: float | None
    """Peak beyond weights and inputs."""

    @property
    def ms(self) -> float:
        """Milliseconds per sample, the median of the draws."""
        return statistics.median(self.draws_ms)


@dataclass(frozen=True)
class Cell:
    """All paradigms at one batch size and prompt length, by name."""

    batch_size: int
    length: int
    timings: dict[str, Timing]

    def ratio(self, name: str, to: str) -> float | None:
        """How many times as long `name` takes as `to`; None where either ran out of memory."""
        pairs = list(zip(self.timings[name].draws_ms, self.timings[to].draws_ms, strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None


class Bench:
    """Measures cells on one model.

    Args:
        model: in the dtype and on the device to measure; its language model's weights are laid out anew, with the same values.
        protocol: what to measure.
        compiled: run the blocks through `torch.compile`.
    """

    def __init__(self, model: LaMEModel, protocol: Protocol, *, compiled: bool) -> None:
        self.model, self.protocol = model.eval(), protocol
        self.device = model.embed_1D.device
        self.language = LanguageModel(model.backbone.language_model, compiled=compiled)

    def builders(self) -> dict[str, Callable[[Prompts], Program]]:
        """How each paradigm's program is made for prompts of one shape."""
        model, language, protocol = self.model, self.language, self.protocol
        return {
            Discriminative.name: lambda like: Discriminative(model, language, like),
            LaME.name: lambda like: LaME(model, language, like),
            LatentRollout.name: lambda like: LatentRollout(model, language, like, protocol.latent_steps),
            ExplicitCoT.name: lambda like: ExplicitCoT(model, language, like, protocol.tokens),
        }

    def work(self, batch_size: int, length: int) -> dict[str, float]:
        """Rough relative costs of one batch, for the progress bar: positions, a step counting as 16 at least."""
        step = max(batch_size, 16)
        prefill = batch_size * length
        steps = {LatentRollout.name: self.protocol.latent_steps, ExplicitCoT.name: self.protocol.tokens}
        return {name: prefill + step * steps.get(name, 0) for name in NAMES}

    def runs(self, batch_size: int) -> int:
        """Batches that a paradigm reads in one cell, short draws not repeated."""
        return self.protocol.warmup + self.protocol.draws * -(-self.protocol.inputs // batch_size)

    @torch.inference_mode()
    def prepare(self) -> None:
        """Runs each paradigm once on little, so that libraries hold what they hold before memory is measured."""
        (prompts,) = make_prompts(self.model, 1, 1, 32, self.protocol.modality)
        for name, build in self.builders().items():
            (ExplicitCoT(self.model, self.language, prompts, 2) if name == ExplicitCoT.name else build(prompts))(prompts)

    @torch.inference_mode()
    def measure(self, batch_size: int, length: int, tick: Callable[[float], object] = lambda _: None) -> Cell:
        """One cell.

        Args:
            batch_size: B.
            length: L.
            tick: told how much of `work` a batch was.
        """
        protocol = self.protocol
        ticks: dict[str, Tick] = {name: partial(tick, cost) for name, cost in self.work(batch_size, length).items()}
        gc.collect()  # the programs of the cell before hold themselves through their stages
        count = -(-protocol.inputs // batch_size)
        batches = _attempt(partial(make_prompts, self.model, count, batch_size, length, protocol.modality, seed=length)) or []
        memory: dict[str, float | None] = {}
        draws: dict[str, list[float]] = {name: [] for name in NAMES}
        programs: dict[str, Program] = {}
        for name, build in self.builders().items() if batches else ():
            made = _attempt(partial(self._made, build, batches, ticks[name]))
            if made is not None:
                programs[name], memory[name] = made
        for number in range(protocol.draws):
            for name, ms in self._draw(programs, batches, number % 2 == 1, ticks).items():
                draws[name].append(ms)
        for name in draws.keys() - programs.keys():
            draws[name].clear()
        return Cell(batch_size, length, {name: Timing(tuple(draws[name]), memory.get(name)) for name in NAMES})

    def _made(self, build: Callable[[Prompts], Program], batches: list[Prompts], tick: Tick) -> tuple[Program, float | None]:
        """A program, warm, and its peak memory in MiB."""
        with PeakMemory(self.device) as peak:
            program = build(batches[0])
            program(batches[0])
        tick()
        if self.device.type == "cuda":
            program.capture()
        for number in range(1, self.protocol.warmup):
            program(batches[number % len(batches)])
            tick()
        return program, peak.mib

    def _draw(self, programs: dict[str, Program], batches: list[Prompts], backwards: bool, ticks: dict[str, Tick]) -> dict[str, float]:
        """Milliseconds per sample of each program in one draw; one that no longer fits is taken out of `programs`.

        The programs take turns, a pass over the batches each, and drop out when they have run for `SHORTEST_DRAW`.
        """
        order = [*reversed(programs)] if backwards else [*programs]  # what drifts evenly cancels out over two draws
        seconds = dict.fromkeys(order, 0.0)
        passes = dict.fromkeys(order, 0)
        while pending := [name for name in order if name in programs and (passes[name] == 0 or seconds[name] < SHORTEST_DRAW)]:
            for name in pending:
                took = _attempt(partial(self._pass, programs[name], batches, _silent if passes[name] else ticks[name]))
                if took is None:
                    del programs[name]
                else:
                    seconds[name] += took
                    passes[name] += 1
        inputs = sum(len(prompts.ids_BL) for prompts in batches)
        return {name: 1000 * seconds[name] / (passes[name] * inputs) for name in programs}

    def _pass(self, program: Program, batches: list[Prompts], tick: Tick) -> float:
        """Seconds that a program takes over all batches."""
        self._wait()
        began = time.perf_counter()
        for prompts in batches:
            program(prompts)
            tick()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _silent() -> None:
    """The tick of a pass beyond those that were announced."""


def _attempt(work: Callable[[], T]) -> T | None:
    """What `work` returns, or None where memory did not suffice."""
    try:
        return work()
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except RuntimeError as error:  # the CPU's allocator and CUDA's graphs raise no class of their own
        if not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
    gc.collect()  # outside the handler: the traceback kept what did not fit alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None
