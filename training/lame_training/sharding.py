"""FSDP2: the parameters of a large model spread over the processes (`--shard`).

Blocks of the backbone and of the decoder are sharded one by one, the rest together; gradients are summed, not averaged,
as everywhere here (see `world`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from lame_training.model import LaMEModel
from lame_training.world import World


def shard(model: LaMEModel, world: World, precision: str) -> None:
    """Spreads the model's parameters, which every process must hold alike, over the processes."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "reconstruction_logits")
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def note_trained(model: LaMEModel) -> None:
    """Lets every sharded block see which of its parameters are trained now; FSDP2 settles the type of gradients once, by those."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.unshard()
            module.reshard()


def collect(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors in one piece each, in the main memory of the processes that `keep` them; every process must call it."""
    found = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        if keep:
            found[name] = tensor.detach().cpu()
    return found


def alike(value: Tensor, like: Tensor) -> Tensor:
    """`value`, whole, on the device of `like` and sharded as `like` is."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


def whole_norm(norm: Tensor) -> float:
    """A norm over sharded or whole gradients as a number."""
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
