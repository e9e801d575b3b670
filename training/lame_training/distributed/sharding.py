"""Shards the parameters of a large model over the processes with FSDP2.

Each block of the backbone and of the decoder is sharded by itself, and the rest of the model
together, so that whole parameters of few blocks at a time are in memory besides the shards.
Gradients are summed over the processes, not averaged, as in `ProcessGroup.sum_gradients`.

FSDP2 gathers parameters in every forward and backward pass. So all processes must run the same
number of passes through the same blocks; `objective.gradcache` sees to that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from lame_training.distributed.processes import ProcessGroup
from lame_training.model.lame import LaMEModel


def shard_model(model: LaMEModel, world: ProcessGroup, precision: str) -> None:
    """Shards the model's parameters, in place.

    Args:
        model: has the same weights in every process.
        world: the processes; on GPUs FSDP2 moves the model to their devices.
        precision: "bf16" gathers parameters and computes in BF16 and sums gradients in FP32; "fp32"
            does everything in FP32. The shards keep the dtype of the weights in both.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if precision == "bf16"
        else MixedPrecisionPolicy()
    )
    # blocks first and the model last: a call shards the parameters that no call before it has taken
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    # FSDP2 gathers parameters when `forward` is called; this is the other method that needs them
    register_fsdp_forward_method(model, "reconstruction_logits")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # with a factor of 1 gradients are summed; FSDP2's default is the mean
            module.set_gradient_divide_factor(1.0)
            # gloo can reduce by a plain sum only
            module.set_force_sum_reduction_for_comms(True)


def refresh_trained_parameters(model: LaMEModel) -> None:
    """Makes every sharded block look again at which of its parameters are trained.

    FSDP2 derives the dtype of a block's gradients from the parameters that require one, and does so
    once, in the first forward pass. A block that is frozen in one stage and trained in the next
    would have none, so this must be called after every change of `requires_grad`.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # `unshard` derives them again, as a side effect; there is no call for this alone
            module.unshard()
            module.reshard()


def full_tensors(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Collects sharded tensors on the CPU; every process must make this call.

    Args:
        tensors: sharded or whole tensors by name, in the same order in every process.
        keep: whether this process keeps them. The others return nothing, so that the whole model is
            not in the memory of one machine several times.

    Returns:
        The whole tensors by name, without gradient; empty if `keep` is False.
    """
    collected = {}
    for name, tensor in tensors.items():
        # a collective, so it runs in the processes that keep nothing, too
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            collected[name] = whole.detach().cpu()
    return collected


def shard_like(value: Tensor, reference: Tensor) -> Tensor:
    """Returns a whole tensor on the device of `reference`, and sharded if `reference` is."""
    value = value.to(reference.device)
    if isinstance(reference, DTensor):
        # every process holds the whole tensor and keeps its own piece
        return distribute_tensor(value, reference.device_mesh, reference.placements)
    return value


def full_norm(norm: Tensor) -> float:
    """Returns a norm as a number, whether the gradients it was computed from are sharded or not."""
    # over sharded gradients `clip_grad_norm_` returns a DTensor that still has to be reduced
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
