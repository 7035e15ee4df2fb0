"""Sign momentum with a trust ratio, where every process has a part of each tensor."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from bertswin_ext.optimizers.lion_lars import LionLARS, Norms
from bertswin_ext.optimizers.sharded_tensors import local

__all__ = ["ShardedLionLARS"]


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

    def _held(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process' part of a tensor."""
        return local(tensor)

    def _norms(self, parameters: list[torch.Tensor], momenta: list[torch.Tensor]) -> tuple[Norms, Norms]:
        """Norms of the whole parameters and momenta, from those of their parts; all processes meet here."""
        squares = torch.stack(torch._foreach_norm([*map(local, parameters), *momenta])).square()
        dist.all_reduce(squares, group=cast(DTensor, parameters[0]).device_mesh.get_group())
        norms, momentum_norms = squares.sqrt().chunk(2)
        return norms.unbind(), momentum_norms.unbind()
