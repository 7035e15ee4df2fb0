"""Sign momentum with a trust ratio, where every process has a part of each tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from bertswin_ext.optimizers.lion_lars import LionLARS
from bertswin_ext.optimizers.sharded_tensors import local

__all__ = ["ShardedLionLARS"]

_NO_NORM = 1e-8


class ShardedLionLARS(LionLARS):
    """`LionLARS` for parameters that are ``DTensor``: the trust ratio is that of the whole tensors.

    The momentum is dealt out as the parameters are. Processes send each other the squares of the norms, two numbers for
    every tensor, in one message for each group.

    Args:
        params: parameters or parameter groups, all dealt out over the same processes.
        lr: learning rate.
        momentum: decay of the momentum.
        trust_clip: largest trust ratio.
        weight_decay: share of every parameter, times the learning rate, that is taken away at every step.

    Raises:
        ValueError: an argument is out of range; a parameter is not dealt out.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with numbers of their own.

        Args:
            param_group: ``params`` and whatever differs from the defaults.
        """
        super().add_param_group(param_group)
        bare = [p for p in self.param_groups[-1]["params"] if not isinstance(p, DTensor)]
        if bare:
            raise ValueError(
                f"All parameters must be dealt out over processes, {len(bare)} are not. Pass those of a network that "
                "`shard_network` returned, or use LionLARS."
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient; all processes must call this together.

        Args:
            closure: computes the loss again and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step_parts(group, parameters)
        return loss

    def _step_parts(self, group: dict[str, Any], parameters: list[DTensor]) -> None:
        """Move this process' parts of some parameters, all at once."""
        lr, decay = float(group["lr"]), group["momentum"]
        corrections = [1 - decay ** self._counted(parameter) for parameter in parameters]
        parts = [local(parameter) for parameter in parameters]
        momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        norms, momentum_norms = _whole_norms(parts, momenta, parameters[0].device_mesh.get_group())
        momentum_norms = momentum_norms / torch.tensor(corrections, dtype=norms.dtype, device=norms.device)
        ratios = (norms / momentum_norms).clamp(max=group["trust_clip"])
        steps = torch.where((norms > _NO_NORM) & (momentum_norms > _NO_NORM), ratios, 1.0) * -lr
        if group["weight_decay"]:
            torch._foreach_mul_(parts, 1 - lr * group["weight_decay"])
        for part, momentum, step in zip(parts, momenta, steps.unbind(), strict=True):
            # one tensor after another: no copy of all of them
            part.addcmul_(momentum.sign(), step)

    def _counted(self, parameter: torch.Tensor) -> int:
        """The number of this step, from 1 on; at first there is no momentum."""
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["step"] += 1
        return int(state["step"])


def _whole_norms(
    parts: list[torch.Tensor], momenta: list[torch.Tensor], group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms of the whole parameters and momenta, from those of their parts."""
    squares = torch.stack(torch._foreach_norm(parts + momenta)).square()
    dist.all_reduce(squares, group=group)
    norms, momentum_norms = squares.sqrt().chunk(2)
    return norms, momentum_norms
