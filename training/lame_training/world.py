"""The processes of a run: one, or as many as `torchrun` or `accelerate launch` started.

Every process works on its share of the same batch. Embeddings are gathered, each process computes the whole batch's
contrastive loss and differentiates it by its own embeddings; summed over the processes, the parameters' gradients are
those of one process with the whole batch. So nothing needs a collective that is differentiated through, and forward
passes need not match between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from lame_runtime.errors import InputError
from torch import Tensor

BUCKET = 64 << 20
"""Bytes of gradients summed in one call."""


class World:
    """Rank, size, device, and the few collectives that training needs. With one process they cost nothing.

    Args:
        device: None takes a GPU where there is one; "cpu" insists.
    """

    def __init__(self, device: str | None = None) -> None:
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        self.rank: int = state.process_index
        self.size: int = state.num_processes
        self.device = torch.device(state.device.type if state.device.type == "cpu" else state.device)

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def share(self, items: list[Any], what: str) -> list[Any]:
        """This process's equal share of `items`; raises `InputError` where they cannot be shared equally."""
        if len(items) % self.size:
            raise InputError(f"{len(items)} {what} cannot be shared by {self.size} processes; use a number of processes that divides them")
        each = len(items) // self.size
        return items[self.rank * each : (self.rank + 1) * each]

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows of all processes (their numbers may differ) in order of rank, and where one's own begin. No gradient passes."""
        rows = rows.detach().contiguous()
        if self.size == 1:
            return rows, 0
        lengths = [int(each) for each in self._gather_equal(torch.tensor([len(rows)], device=rows.device))]
        padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = self._gather_equal(padded).view(self.size, max(lengths), *rows.shape[1:])
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)]), sum(lengths[: self.rank])

    def _gather_equal(self, rows: Tensor) -> Tensor:
        gathered = rows.new_empty((self.size * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows)
        return gathered

    def objects(self, value: Any) -> list[Any]:
        """Every process's `value`, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def total(self, value: float) -> float:
        """The sum of every process's `value`."""
        return float(sum(self.objects(value))) if self.size > 1 else value

    def most(self, value: int) -> int:
        """The largest of every process's `value`."""
        return int(max(self.objects(value)))

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums `.grad` over the processes, a bucket at a time.

        A parameter that a process did not reach counts as zero there; one that none reached stays without a gradient.
        """
        if self.size == 1:
            return
        for bucket in _buckets(self._reached(list(parameters))):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(summed.view_as(grad))

    def _reached(self, parameters: list[Tensor]) -> list[Tensor]:
        """Those that have a gradient in some process: an optimizer passes over the others, as it does in a run of one process."""
        flags = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [parameter for parameter, flag in zip(parameters, flags.tolist(), strict=True) if flag]

    def close(self) -> None:
        """Leaves the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one dtype each, in order, up to `BUCKET` bytes."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and (size > BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket
