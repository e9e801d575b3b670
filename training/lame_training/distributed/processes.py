"""The processes of a run: one, or as many as `torchrun` or `accelerate launch` started.

Every process works on its shard of the same batch. The embeddings are gathered, and each process
computes the contrastive loss of the whole batch and differentiates it with respect to its own
embeddings. The gradients of the parameters, summed over the processes, are then those of one
process with the whole batch. So no collective has to be differentiated, and the processes may run
different numbers of forward passes (unless parameters are sharded, see `sharding`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from lame_runtime.errors import UsageError
from torch import Tensor

BUCKET_BYTES = 64 << 20
"""Size of the buffers in which gradients are summed: one call for many small parameters."""


class ProcessGroup:
    """This process's rank and device, and the collectives over all processes that training needs.

    With one process, no method communicates. With several, all processes must make the same calls
    in the same order.

    Args:
        device: "cpu" uses no GPU; None uses one if there is one.
    """

    def __init__(self, device: str | None = None) -> None:
        # accelerate reads the launcher's environment and initializes torch.distributed
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
        self.rank: int = state.process_index
        self.size: int = state.num_processes  # torch's world size
        # with several processes accelerate numbers the CPU: "cpu:0", which is unequal to "cpu"
        self.device = torch.device(
            state.device.type if state.device.type == "cpu" else state.device
        )

    @property
    def is_main_process(self) -> bool:
        """Is true in the process of rank 0, which alone writes files and prints."""
        return self.rank == 0

    def shard_list(self, items: list[Any], description: str) -> list[Any]:
        """Returns this process's shard of `items`: a contiguous part, as long as everyone else's.

        Args:
            items: the same list in every process.
            description: names the items in the error.

        Raises:
            UsageError: the number of processes does not divide the number of items.
        """
        if len(items) % self.size:
            raise UsageError(
                f"{len(items)} {description} cannot be shared by {self.size} processes; "
                "use a number of processes that divides them"
            )
        length = len(items) // self.size
        return items[self.rank * length : (self.rank + 1) * length]

    def all_gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """Concatenates the rows of all processes in order of rank; no gradient flows through.

        Args:
            rows: this process's rows; their number may differ between processes.

        Returns:
            The rows of all processes, and the index at which this process's own begin.
        """
        rows = rows.detach().contiguous()
        if self.size == 1:
            return rows, 0
        # the collective needs equal shapes, so the lengths are gathered first and rows are padded
        length = torch.tensor([len(rows)], device=rows.device)
        lengths = [int(value) for value in self._all_gather_equal(length)]
        longest = max(lengths)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = self._all_gather_equal(padded).view(self.size, longest, *rows.shape[1:])
        gathered = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        return torch.cat(gathered), sum(lengths[: self.rank])

    def _all_gather_equal(self, rows: Tensor) -> Tensor:
        """Concatenates the rows of all processes, of which each has the same number."""
        gathered = rows.new_empty((self.size * rows.shape[0], *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows)
        return gathered

    def all_gather_object(self, value: Any) -> list[Any]:
        """Returns every process's `value`, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def all_reduce_sum(self, value: float) -> float:
        """Returns the sum of every process's `value`."""
        # summed in Python and in order of rank: float64, and the same bits in every process
        return float(sum(self.all_gather_object(value))) if self.size > 1 else value

    def all_reduce_max(self, value: int) -> int:
        """Returns the largest of every process's `value`."""
        return int(max(self.all_gather_object(value)))

    def barrier(self) -> None:
        """Waits until every process has made this call."""
        if self.size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums `.grad` over the processes, in place and in buckets of `BUCKET_BYTES`.

        A parameter without a gradient counts as zero in a process in which the loss does not depend
        on it; if it has no gradient in any process, it stays without one.

        Args:
            parameters: whole (not sharded) parameters, in the same order in every process.
        """
        if self.size == 1:
            return
        for bucket in _buckets(self._with_gradient_anywhere(list(parameters))):
            for parameter in bucket:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
            flat = torch.cat([grad.flatten() for grad in grads])
            # a sum, not a mean: each process has differentiated the mean over the whole batch
            dist.all_reduce(flat)
            sums = flat.split([grad.numel() for grad in grads])
            for grad, summed in zip(grads, sums, strict=True):
                grad.copy_(summed.view_as(grad))

    def _with_gradient_anywhere(self, parameters: list[Tensor]) -> list[Tensor]:
        """Returns the parameters that have a gradient in at least one process.

        The others must stay without: an optimizer skips them, as in a run of one process, whereas
        with a gradient of zero Adam's momentum and weight decay would still move them.
        """
        flags = torch.tensor(
            [parameter.grad is not None for parameter in parameters],
            dtype=torch.uint8,
            device=self.device,
        )
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return [
            parameter for parameter, flag in zip(parameters, flags.tolist(), strict=True) if flag
        ]

    def close(self) -> None:
        """Leaves the process group; all processes must make this call."""
        if self.size > 1 and dist.is_initialized():
            # A process that ends while a thread of gloo still releases the tensors of the last
            # collective aborts: the thread needs the interpreter, which is gone. After a barrier,
            # which has no tensors, the threads are done with those before it.
            dist.barrier()
            dist.destroy_process_group()


def _buckets(parameters: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yields the parameters in order, in lists of one dtype and of about `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        # the gradients of a bucket are concatenated, so they must be of one dtype
        if bucket and (size > BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket
