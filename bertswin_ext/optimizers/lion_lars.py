"""Sign momentum with a trust ratio."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

__all__ = ["LionLARS", "Norms"]

Norms = Sequence[torch.Tensor]
"""A scalar for every tensor."""

_AT_ONCE = {"cpu": 2**17}  # numbers whose signs are held at once: on a CPU few enough for its cache
_MANY_AT_ONCE = 2**24
_NO_NORM = 1e-8  # the reference's: below it a norm says nothing about scale


class LionLARS(torch.optim.Optimizer):
    """Step in the direction of the momentum's signs, scaled for each tensor by its norm over the momentum's.

    With momentum m = momentum * m + (1 - momentum) * gradient, corrected for its start at zero to mh: every parameter
    tensor p moves by -lr * min(norm(p) / norm(mh), trust_clip) * sign(mh). The ratio is 1 where a norm is zero.

    Every entry of a tensor moves by the same amount, at most ``lr * trust_clip``; the learning rate is therefore ten
    times or more below AdamW's. The momentum has the parameters' type: keep those in float32, and use autocast.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: decay of the momentum.
        trust_clip: largest trust ratio.
        weight_decay: share of every parameter, times the learning rate, that is taken away at every step (decoupled, as
            in AdamW).

    Raises:
        ValueError: an argument is out of range, or a gradient is sparse.

    Source: the update of GradientConductor (arXiv 2509.07252), which joins the sign of Lion (arXiv 2302.06675) and the
    trust ratio of LARS (arXiv 1708.03888); in BertsWin's recipe lr 1.5e-5, momentum 0.9 and trust_clip 10.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
        >>> optimizer = LionLARS([weight], lr=0.01)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.detach()  # moved by 0.01 * (5 / 1.41) each
        tensor([ 2.9646, -4.0354])
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]],
        lr: float = 1.5e-5,
        momentum: float = 0.9,
        trust_clip: float = 10.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "trust_clip": trust_clip, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with numbers of their own.

        Args:
            param_group: ``params`` and whatever differs from the defaults.
        """
        super().add_param_group(param_group)
        _check_group(self.param_groups[-1])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient.

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
                self._step_group(group, parameters)
        return loss

    def _step_group(self, group: dict[str, Any], parameters: list[torch.Tensor]) -> None:
        """Move some parameters, all at once."""
        lr, decay = float(group["lr"]), group["momentum"]
        gradients = [self._held(_dense(parameter)) for parameter in parameters]
        momenta, corrections = [], []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = 0
                state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] += 1
            momenta.append(self._held(state["momentum_buffer"]))
            corrections.append(1 - decay ** state["step"])
        torch._foreach_lerp_(momenta, gradients, 1 - decay)
        steps = _trust_ratios(*self._norms(parameters, momenta), corrections, group["trust_clip"])
        torch._foreach_mul_(steps, -lr)
        held = [self._held(parameter) for parameter in parameters]
        if group["weight_decay"]:
            torch._foreach_mul_(held, 1 - lr * group["weight_decay"])
        for moved, directions, sizes in _buckets(held, momenta, steps):
            torch._foreach_addcmul_(moved, torch._foreach_sign(directions), sizes)

    def _held(self, tensor: torch.Tensor) -> torch.Tensor:
        """What this process has of a tensor: all of it."""
        return tensor

    def _norms(self, parameters: list[torch.Tensor], momenta: list[torch.Tensor]) -> tuple[Norms, Norms]:
        """Norms of whole parameters, and of the momenta that belong to what is held of them."""
        return torch._foreach_norm(parameters), torch._foreach_norm(momenta)


def _trust_ratios(norms: Norms, momentum_norms: Norms, corrections: list[float], clip: float) -> list[torch.Tensor]:
    """Norm of every parameter over that of its corrected momentum, at most ``clip``; scalars on the device."""
    whole = torch.stack(tuple(norms))
    corrected = torch.stack(torch._foreach_div(tuple(momentum_norms), corrections))
    ratios = (whole / corrected).clamp(max=clip)
    return list(torch.where((whole > _NO_NORM) & (corrected > _NO_NORM), ratios, 1.0).unbind())


def _buckets(
    parameters: list[torch.Tensor], momenta: list[torch.Tensor], steps: list[torch.Tensor]
) -> Iterator[tuple[list[torch.Tensor], ...]]:
    """Tensors, or pieces of large ones, of at most so many numbers together; one that is not contiguous stays whole."""
    at_once = _AT_ONCE.get(parameters[0].device.type, _MANY_AT_ONCE)
    bucket: list[tuple[torch.Tensor, ...]] = []
    room = at_once
    for piece in _in_pieces(parameters, momenta, steps, at_once):
        if bucket and piece[0].numel() > room:
            yield tuple(map(list, zip(*bucket, strict=True)))
            bucket, room = [], at_once
        bucket.append(piece)
        room -= piece[0].numel()
    yield tuple(map(list, zip(*bucket, strict=True)))


def _in_pieces(
    parameters: list[torch.Tensor], momenta: list[torch.Tensor], steps: list[torch.Tensor], at_most: int
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Every tensor and its momentum, flat and cut where they are large; and the step of each."""
    for parameter, momentum, step in zip(parameters, momenta, steps, strict=True):
        if parameter.numel() <= at_most or not (parameter.is_contiguous() and momentum.is_contiguous()):
            yield parameter, momentum, step
        else:
            flat = parameter.view(-1).split(at_most), momentum.view(-1).split(at_most)
            yield from ((piece, direction, step) for piece, direction in zip(*flat, strict=True))


def _dense(parameter: torch.Tensor) -> torch.Tensor:
    """The gradient of a parameter."""
    if parameter.grad is None or parameter.grad.is_sparse:
        raise ValueError("LionLARS does not take sparse gradients. Use an embedding with `sparse=False`.")
    return parameter.grad


def _check_group(group: dict[str, Any]) -> None:
    """Refuse numbers that are out of range."""
    if not group["lr"] >= 0:
        raise ValueError(f"`lr` must not be negative, got {group['lr']}.")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"`momentum` must be at least 0 and below 1, got {group['momentum']}. The paper's is 0.9.")
    if not group["trust_clip"] > 0:
        raise ValueError(f"`trust_clip` must be positive, got {group['trust_clip']}. The paper's is 10.")
    if not group["weight_decay"] >= 0:
        raise ValueError(f"`weight_decay` must not be negative, got {group['weight_decay']}.")
