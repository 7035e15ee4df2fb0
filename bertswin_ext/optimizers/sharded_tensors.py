"""Tensors that are dealt out to several processes, and the same tensors in one piece."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

__all__ = ["local", "own_part", "stacked", "whole"]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process' part of a tensor, in the same memory; of one that is not dealt out, the tensor itself."""
    # detached of its graph, not of its memory
    bare = tensor.detach()
    return bare.to_local() if isinstance(bare, DTensor) else bare


def whole(tensor: torch.Tensor) -> torch.Tensor | None:
    """A tensor in one piece on the first process' CPU, None elsewhere; all processes must call this together.

    A tensor that is not dealt out is returned as it is.
    """
    if not isinstance(tensor, DTensor):
        return tensor
    # every process takes part in gathering
    gathered = tensor.full_tensor()
    return gathered.cpu() if tensor.device_mesh.get_rank() == 0 else None


def own_part(tensor: torch.Tensor, like: DTensor) -> DTensor:
    """Cut a tensor that every process has, without a message.

    Args:
        tensor: the whole (..., *shape); axes before those of ``like`` are not cut.
        like: tensor (*shape) that is dealt out.

    Returns:
        The tensor, dealt out in the same way.
    """
    placements = _placements(like, tensor.dim() - like.dim())
    on_device = tensor.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, placements, src_data_rank=None)


def stacked(part: torch.Tensor, like: DTensor) -> DTensor:
    """A tensor (..., *shape) of which every process has its part, cut as ``like`` (*shape) is.

    Args:
        part: this process' part (..., *local shape); its memory is used.
        like: tensor that is dealt out.
    """
    extra = part.dim() - like.dim()
    shape = torch.Size((*part.shape[:extra], *like.shape))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, like.device_mesh, _placements(like, extra), shape=shape, stride=stride)


def _placements(like: DTensor, extra: int) -> list[Any]:
    """Along which axes a tensor is cut that has some more in front."""
    return [Shard(p.dim + extra) if isinstance(p, Shard) else p for p in like.placements]
