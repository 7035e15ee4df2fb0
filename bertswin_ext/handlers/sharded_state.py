"""The state of a sharded network or optimizer, in one piece."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from bertswin_ext.optimizers.sharded_tensors import own_part, whole

__all__ = ["ShardedState"]


class ShardedState:
    """A network's or an optimizer's state as if it were not dealt out, for `ResumeHandler`.

    A checkpoint is therefore one plain file, whatever the number of processes; it is gathered tensor by tensor on the
    first process' CPU. To load it every process reads the file and keeps its part.

    Args:
        part: what `shard_network` returned, or an optimizer of its parameters.

    Raises:
        TypeError: it is neither a module nor an optimizer.
    """

    def __init__(self, part: nn.Module | torch.optim.Optimizer) -> None:
        if not isinstance(part, nn.Module | torch.optim.Optimizer):
            raise TypeError(f"`part` must be a network or an optimizer, got {type(part).__name__}.")
        self.part = part

    def state_dict(self) -> dict[str, Any]:
        """The whole state; all processes must call this together, and only the first one gets the tensors."""
        return dict(_mapped(self.part.state_dict(), whole))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep this process' part of a whole state."""
        if isinstance(self.part, nn.Module):
            own = self.part.state_dict()
            self.part.load_state_dict({name: _like(value, own.get(name)) for name, value in state_dict.items()})
        else:
            self.part.load_state_dict({**state_dict, "state": _dealt_out(state_dict["state"], self.part)})


def _mapped(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """Nested values with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _mapped(part, change) for key, part in value.items()}
    return [_mapped(part, change) for part in value] if isinstance(value, list) else value


def _dealt_out(states: Mapping[int, Any], optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """States by the number of the parameter, tensors of its shape dealt out as it is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        number: {name: _like(value, parameters[number]) for name, value in state.items()}
        for number, state in states.items()
        if number < len(parameters)
    }


def _like(value: Any, like: torch.Tensor | None) -> Any:
    """A tensor dealt out as another one of its shape is; anything else as it is."""
    if isinstance(value, torch.Tensor) and isinstance(like, DTensor) and value.shape == like.shape:
        return own_part(value, like)
    return value
