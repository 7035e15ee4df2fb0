"""What the conductor and its parts say to wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

__all__ = ["check_loss", "check_model", "checked_resolver", "checked_result", "checked_weights", "is_number"]


def is_number(value: object) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_loss(task: str, loss: torch.Tensor) -> None:
    """Refuse what is not a scalar with a graph."""
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"The loss {task!r} must be a tensor, got {type(loss).__name__}.")
    if loss.dim() > 0:
        raise ValueError(f"The loss {task!r} must be a scalar, got shape {tuple(loss.shape)}. Take its mean.")
    if not loss.requires_grad:
        raise ValueError(
            f"The loss {task!r} does not require grad: it was computed under `torch.no_grad`, detached, or depends on "
            "no trainable parameter."
        )


def check_model(model: nn.Module) -> None:
    """Refuse what has no parameters of its own."""
    if isinstance(model, DistributedDataParallel | DataParallel):
        raise ValueError(
            f"`model` must not be wrapped, got {type(model).__name__}: the conductor averages the gradients of the "
            "processes itself. Pass `model.module`, and use that in the training loop too."
        )
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}.")


def checked_weights(loss_weights: Mapping[str, float]) -> dict[str, float]:
    """The weights in the order of the names, so that no result depends on the order they were given in."""
    if not isinstance(loss_weights, Mapping) or not loss_weights:
        raise ValueError(f"`loss_weights` must name at least one loss with its weight, got {loss_weights!r}.")
    for name, weight in loss_weights.items():
        if not isinstance(name, str):
            raise ValueError(f"`loss_weights` must have names as keys, got {name!r}.")
        if not (is_number(weight) and math.isfinite(weight) and weight >= 0):
            raise ValueError(f"`loss_weights` must be finite and not negative, got {weight!r} for {name!r}.")
    return {name: float(loss_weights[name]) for name in sorted(loss_weights)}


def checked_resolver(resolver: Any, known: Collection[str]) -> Any:
    """A name that exists, or a function."""
    if isinstance(resolver, str) and resolver not in known:
        raise ValueError(f"`resolver` must be one of {', '.join(known)} or a function, got {resolver!r}.")
    if not (isinstance(resolver, str) or callable(resolver)):
        raise TypeError(f"`resolver` must be a name or a function, got {type(resolver).__name__}.")
    return resolver


def checked_result(weights: torch.Tensor, num_tasks: int) -> torch.Tensor:
    """What a user's resolver returned, as (K,) float64 on the CPU."""
    if not isinstance(weights, torch.Tensor) or weights.shape != (num_tasks,) or not weights.isfinite().all():
        raise ValueError(f"The resolver must return {num_tasks} finite weights, one for each loss, got {weights!r}.")
    return weights.detach().to("cpu", torch.float64)
