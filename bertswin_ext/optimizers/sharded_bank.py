"""The gradients of several losses where every process has a part of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from bertswin_ext.optimizers.gradient_bank import GradientBank
from bertswin_ext.optimizers.sharded_tensors import local, own_part, stacked, whole

__all__ = ["Parts", "ShardedBank"]

_STACKS = ("rows", "previous")


class Parts(nn.Module):
    """This process' parts of a sharded model's parameters, as ordinary parameters in the same memory.

    Args:
        model: a model whose trainable parameters are ``DTensor`` on one mesh of processes with one axis.

    Raises:
        ValueError: its parameters are not dealt out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whole = _checked({name: p for name, p in model.named_parameters() if p.requires_grad})
        self._parts = nn.ParameterList(local(parameter) for parameter in self.whole.values())

    def named_parameters(self, *_args: Any, **_kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parts under the names that the model has for the whole."""
        return zip(self.whole, self._parts, strict=True)

    @property
    def group(self) -> dist.ProcessGroup:
        """The processes that have the other parts."""
        return next(iter(self.whole.values())).device_mesh.get_group()


class ShardedBank:
    """A `GradientBank` over parts: what it says about gradients holds for the whole ones.

    The backward pass leaves the mean gradient over the processes, dealt out; each process adds its part to its rows.
    Inner products are summed over the processes, K x K numbers; no other message is sent. Memory: the rows of a
    `GradientBank` divided by the number of processes, and another such row during `accumulate`.

    Args:
        bank: bank of the parts, which this one takes over.
        parts: the parts and the parameters that they are of.
    """

    def __init__(self, bank: GradientBank, parts: Parts) -> None:
        self.bank = bank
        self.names = list(parts.whole)
        self.parameters = list(parts.whole.values())
        self.parts = list(parts.parameters())
        self.group = parts.group
        self.num_tasks, self.device, self.dtype = bank.num_tasks, bank.device, bank.dtype

    @property
    def rows(self) -> torch.Tensor:
        """This process' part of the rows."""
        return self.bank.rows

    def accumulate(self, task: int, loss: torch.Tensor, factor: float, retain_graph: bool = False) -> None:
        """Add the gradient of ``factor * loss`` to a row; all processes must call this together.

        Args:
            task: the row.
            loss: a scalar.
            factor: weight of the loss.
            retain_graph: another loss needs the graph as well.
        """
        for parameter in self.parameters:
            parameter.grad = None
        try:
            seed = torch.full_like(loss.detach(), factor)
            torch.autograd.backward([loss], [seed], retain_graph=retain_graph)
            gradients = [None if p.grad is None else local(p.grad) for p in self.parameters]
        finally:
            for parameter in self.parameters:
                parameter.grad = None
        for part, parameter in zip(self.parts, self.parameters, strict=True):
            part.requires_grad_(parameter.requires_grad)
        given = _Given.apply(gradients, *self.parts)  # type: ignore[no-untyped-call]
        self.bank.accumulate(task, given, 1.0)

    def scale(self, factors: Sequence[float]) -> None:
        """Multiply every row by a factor of its own."""
        self.bank.scale(factors)

    def gramian(self) -> torch.Tensor:
        """Inner products of the whole rows, (K, K) float64 on the CPU."""
        return self._summed(self.bank.gramian())

    def cross_gramian(self) -> torch.Tensor:
        """Inner products of the whole rows with those of the step before, (K, K) float64 on the CPU."""
        return self._summed(self.bank.cross_gramian())

    def combine(self, weights: torch.Tensor) -> None:
        """Make the weighted sum of the rows the parameters' gradient, dealt out as they are.

        Args:
            weights: (K,).
        """
        self.bank.combine(weights)
        for parameter, part in zip(self.parameters, self.parts, strict=True):
            parameter.grad = None if part.grad is None else stacked(part.grad, parameter)

    def close(self) -> None:
        """End the step: the next `accumulate` begins a new one."""
        self.bank.close()

    def discard(self) -> None:
        """Forget what was accumulated for this step, and the gradient of the one before."""
        self.bank.discard()
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self, pending: bool = True) -> dict[str, Any]:
        """What a `GradientBank` of the whole model returns; all processes must call this together.

        Args:
            pending: also the rows of the step that is being accumulated.

        Returns:
            The state on the CPU; the tensors are None in all processes but the first.
        """
        state = self.bank.state_dict(pending)
        stacks = {key: self._gathered(state[key]) for key in _STACKS}
        return {**state, "shapes": self._shapes(), **stacks}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rows of another bank over, sharded or not; every process needs all of them.

        Raises:
            ValueError: the state is that of another model.
        """
        shapes = {name: tuple(shape) for name, shape in state_dict["shapes"].items()}
        fits = shapes == self._shapes()
        for name, parameter, part in zip(self.names, self.parameters, self.parts, strict=True):
            if shapes.get(name) == tuple(parameter.shape):
                shapes[name] = tuple(part.shape)
        stacks = {key: self._dealt_out(state_dict[key]) if fits else None for key in _STACKS}
        # where it does not fit the bank says so
        self.bank.load_state_dict({**state_dict, "shapes": shapes, **stacks})

    def _summed(self, products: torch.Tensor) -> torch.Tensor:
        """Sums over all processes, the same in each."""
        on_device = products.to(self.device)
        dist.all_reduce(on_device, group=self.group)
        return on_device.cpu()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """What tells models apart."""
        return {name: tuple(p.shape) for name, p in zip(self.names, self.parameters, strict=True)}

    def _gathered(self, rows: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor | None] | None:
        """Parts (K, *local shape) as whole rows (K, *shape)."""
        if rows is None:
            return None
        pairs = zip(self.names, self.parameters, rows.values(), strict=True)
        return {name: whole(stacked(row, parameter)) for name, parameter, row in pairs}

    def _dealt_out(self, rows: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
        """Whole rows (K, *shape) as parts (K, *local shape)."""
        if rows is None:
            return None
        pairs = zip(self.names, self.parameters, strict=True)
        return {name: local(own_part(rows[name], parameter)) for name, parameter in pairs}


class _Given(torch.autograd.Function):
    """A scalar whose gradients are given."""

    @staticmethod
    def forward(ctx: Any, gradients: list[torch.Tensor | None], *parts: torch.Tensor) -> torch.Tensor:
        """Keep the gradients."""
        ctx.gradients = gradients
        return parts[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, _one: torch.Tensor) -> tuple[Any, ...]:
        """Return them."""
        return None, *ctx.gradients


def _checked(parameters: Mapping[str, torch.Tensor]) -> dict[str, DTensor]:
    """The parameters, all dealt out."""
    sharded = {name: p for name, p in parameters.items() if isinstance(p, DTensor) and p.device_mesh.ndim == 1}
    bare = [name for name in parameters if name not in sharded]
    if bare or not parameters:
        raise ValueError(
            f"`model` must have its trainable parameters dealt out over one axis of processes, {len(bare)} of "
            f"{len(parameters)} are not{', first ' + bare[0] if bare else ''}. Pass what `shard_network` returned, or "
            "use GradientConductor."
        )
    return sharded
