"""A network whose weights are dealt out to several processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from monai.networks.blocks import TransformerBlock
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from bertswin_ext.networks.encoder import SwinBlock

__all__ = ["copy_weights", "free_parameters", "gather_parameters", "shard_network"]


def shard_network(
    network: nn.Module,
    device: torch.device | str,
    param_dtype: torch.dtype | None = None,
    reshard_after_forward: bool = True,
    blocks: Sequence[type[nn.Module]] = (SwinBlock, TransformerBlock),
) -> nn.Module:
    """Copy a network so that each of R processes keeps the R-th part of every parameter.

    The blocks of a transformer are gathered one at a time when their turn comes, forward and backward, and dealt out
    again; so are all other parameters together. Gradients arrive as the mean over the processes. All processes start
    from the first one's weights, and must call this together.

    Args:
        network: the network; it stays as it is, whole, where it is.
        device: where this process works. The copy gets there block by block.
        param_dtype: type that blocks are gathered in, such as ``torch.bfloat16`` under autocast, which halves what is
            sent and held; None for their own. The parts that are trained keep the parameters' own type. Layer norms
            compute with parameters in half precision on GPUs only.
        reshard_after_forward: deal the blocks out again after the forward pass. False sends less, and holds all
            blocks from the forward to the backward pass.
        blocks: classes of the blocks. Nothing but a block may use its parameters, and that only when it is called.

    Returns:
        The copy; its ``parameters()`` are ``DTensor``.

    Raises:
        ValueError: there is no process group, or the network has no such blocks.

    Source: FSDP2, ``torch.distributed.fsdp.fully_shard``.
    """
    if not dist.is_initialized():
        raise ValueError(
            "To shard a network over processes there must be a process group. Start the run with torchrun, and list "
            "multi_gpu_train.json before sharded.json."
        )
    sharded = copy.deepcopy(network)
    found = [module for module in sharded.modules() if isinstance(module, tuple(blocks))]
    if not found:
        raise ValueError(
            f"`network` must have blocks of the classes {', '.join(cls.__name__ for cls in blocks)}, "
            f"{type(network).__name__} has none. Name those of its own in `blocks`."
        )
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in found:
        _shard(block, device, mesh, policy, reshard_after_forward)
    # what stands before the first and after the last block is needed at once in the backward pass
    return _shard(sharded, device, mesh, MixedPrecisionPolicy(cast_forward_inputs=False), False)


def gather_parameters(network: nn.Module) -> None:
    """Give every process all parameters until `free_parameters`, so that each can run the network as often as it likes.

    Outside of that, a process that runs the network waits for all others to run it, too. All processes must call this
    together.

    Args:
        network: what `shard_network` returned.
    """
    for module in _sharded_modules(network):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def free_parameters(network: nn.Module, reshard_after_forward: bool = True) -> None:
    """End what `gather_parameters` began.

    Args:
        network: what `shard_network` returned.
        reshard_after_forward: as given to `shard_network`.
    """
    for module in _sharded_modules(network):
        module.reshard()
        module.set_reshard_after_forward(reshard_after_forward, recurse=False)
    if isinstance(network, FSDPModule):
        network.set_reshard_after_forward(False, recurse=False)


@torch.no_grad()
def copy_weights(sharded: nn.Module, network: nn.Module) -> None:
    """Gather the weights of a sharded network into a whole one of the first process; all processes must call this.

    Args:
        sharded: what `shard_network` returned.
        network: a network of the same kind; it changes in the first process only.
    """
    own = network.state_dict()
    for name, tensor in sharded.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if dist.get_rank() == 0:
            own[name].copy_(whole)


def _sharded_modules(network: nn.Module) -> Iterator[FSDPModule]:
    """All modules that are gathered on their own, the network among them."""
    return (module for module in network.modules() if isinstance(module, FSDPModule))


def _shard(
    module: nn.Module,
    device: torch.device | str,
    mesh: DeviceMesh,
    policy: MixedPrecisionPolicy,
    reshard_after_forward: bool,
) -> nn.Module:
    """Deal the parameters of a module out that are still whole."""
    module.to(device)
    for tensor in [*module.parameters(), *module.buffers()]:
        if not isinstance(tensor, DTensor):
            dist.broadcast(tensor.detach(), src=0)
    fully_shard(
        module,
        mesh=mesh,
        mp_policy=policy,
        reshard_after_forward=reshard_after_forward,
        shard_placement_fn=lambda parameter: _cut(parameter, mesh.size()),
    )
    return module


def _cut(parameter: nn.Parameter, num_parts: int) -> Shard | None:
    """The axis to cut along: the first, or where that is too short the longest that comes out even."""
    if parameter.dim() == 0 or parameter.shape[0] >= num_parts:
        return None
    even = [axis for axis, size in enumerate(parameter.shape) if size % num_parts == 0]
    return Shard(max(even, key=lambda axis: parameter.shape[axis])) if even else None
