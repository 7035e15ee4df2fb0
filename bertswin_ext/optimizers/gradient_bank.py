"""One gradient per task, side by side in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

__all__ = ["GradientBank"]

_ALIGNMENT = 32  # numbers: every parameter starts where vector instructions like it
_BLOCK = 2**14  # numbers: inner products are summed in the row's precision within a block, in float64 between blocks
_BLOCKS_AT_ONCE = 256


class GradientBank:
    """The gradients of K tasks, one flat row of P numbers each, and the rows of the step before.

    Decisions about gradients only need their inner products, so the bank offers those, and turns the K weights that
    were decided back into one gradient. The backward pass adds straight into the rows, without another copy of a
    gradient, where they have the parameters' type. Rows stay as they were accumulated; nothing is projected in place.

    Args:
        parameters: trainable parameters by name, all on one device.
        num_tasks: K.
        dtype: of the rows; by default float32, or float64 where a parameter is.
        keep_previous: keep the rows of the step before, for `cross_gramian`.

    Raises:
        ValueError: there is no parameter, or they are on several devices.
        TypeError: ``dtype`` is not a floating type.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        num_tasks: int,
        dtype: torch.dtype | None = None,
        keep_previous: bool = True,
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.num_tasks = num_tasks
        self.device = _common_device(parameters)
        self.dtype = _common_dtype(self.parameters) if dtype is None else _checked_dtype(dtype)
        self._starts, size = _layout(self.parameters)
        self._rows = torch.zeros(num_tasks, size, dtype=self.dtype, device=self.device)
        # the rows of the step before or, where nobody asks for them, one row: where the result is written meanwhile
        has_own_type = all(parameter.dtype == self.dtype for parameter in self.parameters)
        num_spare = num_tasks if keep_previous else int(num_tasks > 1 and has_own_type)
        self._writes_in_spare = num_spare > 0 and has_own_type
        self._spare = torch.zeros(num_spare, size, dtype=self.dtype, device=self.device)
        self._keeps_previous = keep_previous
        self._is_clean = True
        self._row_views, self._spare_views = self._views(self._rows), self._views(self._spare)

    @property
    def rows(self) -> torch.Tensor:
        """The gradients of this step (K, P'); P' is P and padding."""
        return self._rows

    def accumulate(self, task: int, loss: torch.Tensor, factor: float, retain_graph: bool = False) -> None:
        """Add the gradient of ``factor * loss`` to a row; parameters the loss does not reach keep theirs.

        Args:
            task: the row.
            loss: a scalar.
            factor: weight of the loss.
            retain_graph: another loss needs the graph as well.
        """
        self._clear()
        trainable = [
            (parameter, view)
            for parameter, view in zip(self.parameters, self._row_views[task], strict=True)
            if parameter.requires_grad
        ]
        parameters = [parameter for parameter, _ in trainable]
        if not parameters:
            raise ValueError("The model has no trainable parameter any more: `requires_grad` of all is False.")
        try:
            for parameter, view in trainable:
                # autograd adds in place to a gradient of the parameter's own type
                parameter.grad = view if view.dtype == parameter.dtype else None
            seed = torch.full_like(loss.detach(), factor)
            torch.autograd.backward([loss], [seed], retain_graph=retain_graph, inputs=parameters)
            rest = [(view, p.grad) for p, view in trainable if p.grad is not None and p.grad.dtype != view.dtype]
            if rest:
                views, gradients = zip(*rest, strict=True)
                torch._foreach_add_(list(views), [gradient.to(self.dtype) for gradient in gradients])
        finally:
            for parameter in parameters:
                parameter.grad = None

    def scale(self, factors: Sequence[float]) -> None:
        """Multiply every row by a factor of its own."""
        self._rows.mul_(torch.tensor(factors, dtype=self.dtype, device=self.device)[:, None])

    def gramian(self) -> torch.Tensor:
        """Inner products of the rows, (K, K) float64 on the CPU; reading them waits for the device."""
        return self._products(self._rows, self._rows)

    def cross_gramian(self) -> torch.Tensor:
        """Inner products of the rows with the rows of the step before, (K, K) float64 on the CPU."""
        return self._products(self._rows, self._spare)

    def combine(self, weights: torch.Tensor) -> None:
        """Make the weighted sum of the rows the parameters' gradient.

        The gradients are views of memory that the next `accumulate` clears. The rows become the previous ones.

        Args:
            weights: (K,).
        """
        if self.num_tasks == 1 and float(weights[0]) == 1.0:
            target, views = self._rows[0], self._row_views[0]
        elif self._writes_in_spare:
            target, views = self._spare[0], self._spare_views[0]
            torch.mv(self._rows.T, weights.to(self._rows), out=target)
        else:
            dtype = torch.promote_types(self.dtype, torch.float32)
            target = torch.zeros(self._rows.shape[1], dtype=dtype, device=self.device)
            for row, weight in zip(self._rows, weights.tolist(), strict=True):
                target.add_(row, alpha=weight)
            views = self._views(target[None])[0]
        for parameter, view in zip(self.parameters, views, strict=True):
            parameter.grad = view.to(parameter.dtype) if parameter.requires_grad else None
        self._turn_over()

    def close(self) -> None:
        """End the step: the next `accumulate` begins a new one."""
        self._is_clean = False

    def discard(self) -> None:
        """Forget what was accumulated for this step, and the gradient of the one before."""
        for parameter in self.parameters:
            parameter.grad = None
        self.close()

    def state_dict(self, pending: bool = True) -> dict[str, Any]:
        """The rows by parameter name, as views: (K, ...) tensors.

        Args:
            pending: also the rows of the step that is being accumulated.
        """
        return {
            "shapes": self._shapes(),
            "rows": self._by_name(self._rows) if pending else None,
            "previous": self._by_name(self._spare) if self._keeps_previous else None,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rows of another bank over, parameter by parameter.

        Raises:
            ValueError: the state is that of another model.
        """
        own = self._shapes()
        found = {name: tuple(shape) for name, shape in state_dict["shapes"].items()}
        differing = [
            f"{name} {found.get(name, 'absent')}, here {own.get(name, 'absent')}"
            for name in sorted(own.keys() | found.keys())
            if own.get(name) != found.get(name)
        ]
        if differing:
            raise ValueError(
                f"The state is that of another model, parameters that differ: {len(differing)}, first "
                f"{'; '.join(differing[:3])}. Load it into a conductor of the model it was saved with."
            )
        self.discard()
        self._clear()
        self._spare.zero_()
        for part, rows in (("rows", self._rows), ("previous", self._spare if self._keeps_previous else None)):
            if state_dict[part] is not None and rows is not None:
                for name, view in self._by_name(rows).items():
                    view.copy_(state_dict[part][name])

    def _clear(self) -> None:
        """Zero the rows before the first gradient of a step."""
        if not self._is_clean:
            self._rows.zero_()
            self._is_clean = True

    def _turn_over(self) -> None:
        """This step's rows become the previous ones, where those are wanted."""
        self.close()
        if self._keeps_previous:
            self._rows, self._spare = self._spare, self._rows
            self._row_views, self._spare_views = self._spare_views, self._row_views

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """What tells models apart."""
        return {name: tuple(p.shape) for name, p in zip(self.names, self.parameters, strict=True)}

    def _products(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Inner products of rows, summed block by block.

        On a GPU that multiplies in TF32, each product is rounded to 10 bits, up or down alike: sums hardly notice.
        """
        total = torch.zeros(len(left), len(right), dtype=torch.float64, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            for a, b in zip(_pieces(left), _pieces(right), strict=True):
                total += torch.bmm(a, b.mT).double().sum(dim=0)
        return total.cpu()

    def _by_name(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows (K, P') as (K, *shape) views by parameter name."""
        return {
            name: rows[:, start : start + parameter.numel()].view(len(rows), *parameter.shape)
            for name, parameter, start in zip(self.names, self.parameters, self._starts, strict=True)
        }

    def _views(self, rows: torch.Tensor) -> list[list[torch.Tensor]]:
        """Every row as one view per parameter."""
        by_name = self._by_name(rows).values()
        return [[view[index] for view in by_name] for index in range(len(rows))]


def _layout(parameters: Sequence[torch.Tensor]) -> tuple[list[int], int]:
    """Where every parameter starts in a row, and the padded length of a row."""
    starts, size = [], 0
    for parameter in parameters:
        starts.append(size)
        size += -(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT
    size = max(size, _ALIGNMENT)
    block = min(_BLOCK, size)
    return starts, -(-size // block) * block


def _pieces(rows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Rows (K, P') as (blocks, K, block) in float32 or float64, some blocks at a time."""
    block = min(_BLOCK, rows.shape[1])
    blocks = rows.view(len(rows), -1, block).transpose(0, 1)
    for piece in blocks.split(_BLOCKS_AT_ONCE):
        yield piece if rows.dtype == torch.float64 else piece.float()


def _common_device(parameters: Mapping[str, torch.Tensor]) -> torch.device:
    """The device of all parameters."""
    devices = {parameter.device: name for name, parameter in parameters.items()}
    if not devices:
        raise ValueError(
            "The model has no trainable parameter. Set `requires_grad` of what shall be trained before the conductor "
            "is made."
        )
    if len(devices) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise ValueError(f"All trainable parameters must be on one device, found {where}. Move the model to one.")
    return next(iter(devices))


def _common_dtype(parameters: Sequence[torch.Tensor]) -> torch.dtype:
    """Float32, or wider where a parameter is."""
    dtype = torch.float32
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return dtype


def _checked_dtype(dtype: object) -> torch.dtype:
    """A type that gradients can have."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"`dtype` must be a floating type such as torch.float32 or torch.bfloat16, got {dtype!r}. In a "
            "configuration: '$torch.bfloat16'."
        )
    return dtype
