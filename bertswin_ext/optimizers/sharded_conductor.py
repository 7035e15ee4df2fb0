"""The conductor of a model whose parameters are dealt out to several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from bertswin_ext.optimizers.conductor import GradientConductor
from bertswin_ext.optimizers.gradient_bank import GradientBank
from bertswin_ext.optimizers.processes import first_rank
from bertswin_ext.optimizers.resolvers import Resolver
from bertswin_ext.optimizers.sharded_bank import Parts, ShardedBank

__all__ = ["ShardedConductor"]


class ShardedConductor(GradientConductor):
    """A `GradientConductor` for FSDP2: each process keeps its part of the rows, all decide alike.

    Gradients are averaged over the processes as the backward pass goes, so the decisions, and what is put in
    ``parameter.grad``, are those of a `GradientConductor` with the same processes, but for rounding. Any torch
    optimizer that takes ``DTensor`` can step; of ours, `ShardedLionLARS`. All processes must call `accumulate` and
    `conduct` together, and `state_dict`, which gathers.

    Args:
        model: the model, all of its trainable parameters dealt out by ``torch.distributed.fsdp.fully_shard``.
        loss_weights: weight of every loss, by name.
        **kwargs: further arguments of `GradientConductor` but ``sync`` and ``process_group``, which the model has
            decided.

    Raises:
        ValueError: an argument is out of range, or the parameters are not dealt out.
        TypeError: the resolver is neither a name nor a function.

    Source: FSDP2 reduces gradients in every backward pass, K for each micro-batch, where `GradientConductor` sends its
    rows once a step.

    Example:
        >>> from torch.distributed.fsdp import fully_shard
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # torchrun: "gloo" is enough
        >>> model = fully_shard(torch.nn.Linear(2, 2))
        >>> conductor = ShardedConductor(model, {"near": 1.0, "small": 0.1})
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> output = model(torch.ones(3, 2))
        >>> conductor.accumulate({"near": (output - 1).square().mean(), "small": output.abs().mean()})
        True
        >>> conductor.conduct()
        True
        >>> optimizer.step()
        >>> dist.destroy_process_group()
    """

    def __init__(self, model: nn.Module, loss_weights: Mapping[str, float], **kwargs: Any) -> None:
        decided = sorted({"sync", "process_group"} & set(kwargs))
        if decided:
            raise ValueError(
                f"A sharded model has decided on {', '.join(decided)}: its gradients are means over its processes. "
                "Leave it out."
            )
        parts = Parts(model)
        if callable(kwargs.get("resolver")):
            kwargs["resolver"] = _of_first_process(kwargs["resolver"], parts.group)
        super().__init__(parts, loss_weights, sync="none", **kwargs)
        # the same methods, for the whole gradients
        self.bank = cast("GradientBank", ShardedBank(self.bank, parts))


def _of_first_process(resolver: Resolver, group: dist.ProcessGroup) -> Resolver:
    """The weights of the first process: a user's function may draw random numbers."""

    def resolve(gramian: torch.Tensor) -> torch.Tensor:
        weights = [resolver(gramian)]
        dist.broadcast_object_list(weights, src=first_rank(group), group=group)
        return weights[0]

    return resolve
