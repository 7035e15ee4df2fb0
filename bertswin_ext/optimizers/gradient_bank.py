"""One gradient per task, side by side in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

__all__ = ["GradientBank"]

_ALIGNMENT = 32  # numbers: every parameter starts where vector instructions like it
_BLOCK = 2**9  # numbers: inner products are summed in the row's precision within a block, in float64 between blocks
_BLOCKS_AT_ONCE = 2**13
_CONVERTED_AT_ONCE = 2**8  # on a CPU, where what is converted shall stay in the cache
_COLUMNS = {"cpu": 2**16}  # numbers of every row that are combined at once: on a CPU few enough for its cache
_MANY_COLUMNS = 2**24
_LARGE = 2**17  # numbers from which on it pays to write a step's first gradient instead of adding it to zeros


class GradientBank:
    """The gradients of K tasks, one flat row of P numbers each, and the rows of the step before.

    Decisions about gradients only need their inner products, so the bank offers those, and turns the K weights that
    were decided back into one gradient. The backward pass adds straight into the rows, without another copy of a
    gradient, where they have the parameters' type. Rows stay as they were accumulated until they are combined; nothing
    is projected in place.

    Args:
        parameters: trainable parameters by name, all on one device.
        num_tasks: K.
        dtype: of the rows; by default float32, or float64 where a parameter is.
        keep_previous: keep the rows of the step before, for `cross_gramian`.
        previous_dtype: of these; by default that of the rows, which then trade places. In another type they are a copy.

    Raises:
        ValueError: there is no parameter, or they are on several devices.
        TypeError: ``dtype`` or ``previous_dtype`` is not a floating type, or is float16, which overflows.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.nn.Parameter],
        num_tasks: int,
        dtype: torch.dtype | None = None,
        keep_previous: bool = True,
        previous_dtype: torch.dtype | None = None,
    ) -> None:
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.num_tasks = num_tasks
        self.device = _common_device(parameters)
        self.dtype = _common_dtype(self.parameters) if dtype is None else _checked_dtype(dtype)
        self._starts, size = _layout(self.parameters)
        self._rows = torch.zeros(num_tasks, size, dtype=self.dtype, device=self.device)
        self._spare = torch.zeros(
            num_tasks if keep_previous else 0,
            size,
            dtype=self.dtype if previous_dtype is None else _checked_dtype(previous_dtype, "previous_dtype"),
            device=self.device,
        )
        self._has_own_type = all(parameter.dtype == self.dtype for parameter in self.parameters)
        self._keeps_previous = keep_previous
        self._trades_places = keep_previous and self._spare.dtype == self.dtype
        # rows with what an earlier step left there
        self._stale: set[int] = set()
        self._row_views, self._spare_views = self._views(self._rows), self._views(self._spare)

    @property
    def rows(self) -> torch.Tensor:
        """The gradients of this step (K, P'); P' is P and padding."""
        self._settle(range(self.num_tasks))
        return self._rows

    def row(self, task: int) -> torch.Tensor:
        """One of them, (P',); the others may go on growing."""
        self._settle([task])
        return self._rows[task]

    def accumulate(self, task: int, loss: torch.Tensor, factor: float, retain_graph: bool = False) -> None:
        """Add the gradient of ``factor * loss`` to a row; parameters the loss does not reach keep theirs.

        Args:
            task: the row.
            loss: a scalar.
            factor: weight of the loss.
            retain_graph: another loss needs the graph as well.
        """
        if not any(parameter.requires_grad for parameter in self.parameters):
            raise ValueError("The model has no trainable parameter any more: `requires_grad` of all is False.")
        is_first = task in self._stale
        self._stale.discard(task)
        with _into(self.parameters, self._row_views[task], is_first) as parameters:
            seed = torch.full_like(loss.detach(), factor)
            torch.autograd.backward([loss], [seed], retain_graph=retain_graph, inputs=parameters)

    def scale(self, factors: Sequence[float]) -> None:
        """Multiply every row by a factor of its own."""
        for row, factor in zip(self.rows, factors, strict=True):
            if factor != 1:
                row.mul_(factor)

    def gramian(self) -> torch.Tensor:
        """Inner products of the rows, (K, K) float64 on the CPU; reading them waits for the device."""
        return self._products(self.rows, self.rows)

    def cross_gramian(self) -> torch.Tensor:
        """Inner products of the rows with the rows of the step before, (K, K) float64 on the CPU."""
        return self._products(self.rows, self._spare)

    def combine(self, weights: torch.Tensor) -> None:
        """Make the weighted sum of the rows the parameters' gradient.

        The gradients are views of memory that the next `accumulate` overwrites. The rows become the previous ones.

        Args:
            weights: (K,).
        """
        self._settle(range(self.num_tasks))
        if self.num_tasks == 1 and float(weights[0]) == 1.0 and not self._keeps_previous:
            views = self._row_views[0]
        elif not self._has_own_type:
            views = self._views(self._combined(weights)[None])[0]
            self._keep(slice(None))
        elif self._trades_places:
            views = self._spare_views[0]
            torch.mv(self._rows.T, self._on_device(weights), out=self._spare[0])
        else:
            views = self._row_views[0]
            self._combine_in_place(weights)
        for parameter, view in zip(self.parameters, views, strict=True):
            parameter.grad = view.to(parameter.dtype) if parameter.requires_grad else None
        self._turn_over()

    def close(self) -> None:
        """End the step: the next `accumulate` begins a new one."""
        self._settle(range(self.num_tasks))
        self._stale = set(range(self.num_tasks))

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
            "rows": self._by_name(self.rows) if pending else None,
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

    def _settle(self, tasks: Iterable[int]) -> None:
        """Zero rows that nothing has been added to, once the step has begun; before that, one may be the result."""
        if len(self._stale) < self.num_tasks:
            for task in self._stale.intersection(tasks):
                self._rows[task].zero_()
            self._stale.difference_update(tasks)

    def _clear(self) -> None:
        """Zero all rows."""
        self._rows.zero_()
        self._stale = set()

    def _turn_over(self) -> None:
        """This step's rows become the previous ones, where those are wanted."""
        self.close()
        if self._trades_places:
            self._rows, self._spare = self._spare, self._rows
            self._row_views, self._spare_views = self._spare_views, self._row_views

    def _combine_in_place(self, weights: torch.Tensor) -> None:
        """Leave the weighted sum in the first row, and copies of all rows where they will be the previous ones."""
        on_device = self._on_device(weights)
        at_once = _COLUMNS.get(self.device.type, _MANY_COLUMNS)
        for start in range(0, self._rows.shape[1], at_once):
            columns = slice(start, start + at_once)
            self._keep(columns)
            self._rows[0, columns] = torch.mv(self._rows[:, columns].T, on_device)

    def _combined(self, weights: torch.Tensor) -> torch.Tensor:
        """The weighted sum (P',) in memory of its own, float32 or wider."""
        total = torch.zeros(
            self._rows.shape[1], dtype=torch.promote_types(self.dtype, torch.float32), device=self.device
        )
        for row, weight in zip(self._rows, weights.tolist(), strict=True):
            total.add_(row, alpha=weight)
        return total

    def _keep(self, columns: slice) -> None:
        """Copy columns for the next step, where rows do not trade places."""
        if self._keeps_previous and not self._trades_places:
            self._spare[:, columns] = self._rows[:, columns]

    def _on_device(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights beside the rows; nobody waits for them."""
        return weights.to(self._rows.dtype).to(self.device, non_blocking=True)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """What tells models apart."""
        return {name: tuple(p.shape) for name, p in zip(self.names, self.parameters, strict=True)}

    def _products(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Inner products of rows, summed block by block.

        On a GPU that multiplies in TF32, each product is rounded to 10 bits, up or down alike: sums hardly notice.
        """
        dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
        total = torch.zeros(len(left), len(right), dtype=torch.float64, device=self.device)
        with torch.autocast(self.device.type, enabled=False):
            at_once = _blocks_at_once(left, right, dtype)
            pieces = _pieces(left, dtype, at_once)
            pairs = (
                ((a, a) for a in pieces) if left is right else zip(pieces, _pieces(right, dtype, at_once), strict=True)
            )
            for a, b in pairs:
                total += torch.bmm(a, b.mT).sum(dim=0, dtype=torch.float64)
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


@contextmanager
def _into(
    parameters: Sequence[torch.nn.Parameter], views: Sequence[torch.Tensor], is_first: bool
) -> Iterator[list[torch.nn.Parameter]]:
    """Where backward passes add to the views or, if they are the first of a step, overwrite them.

    Autograd adds in place to a gradient of the parameter's own type. What shall be overwritten or converted is taken
    over as soon as it arrives, so that never more than one gradient waits beside its row.
    """
    trainable = [
        (parameter, view) for parameter, view in zip(parameters, views, strict=True) if parameter.requires_grad
    ]
    missing = dict(zip(parameters, views, strict=True)) if is_first else {}
    hooks = []
    for parameter, view in trainable:
        if parameter.dtype == view.dtype and not (is_first and parameter.numel() >= _LARGE):
            parameter.grad = view
        else:
            parameter.grad = None
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(_take, view, missing)))
    _zero([missing.pop(parameter) for parameter, _ in trainable if is_first and parameter.grad is not None])
    try:
        yield [parameter for parameter, _ in trainable]
    finally:
        for hook in hooks:
            hook.remove()
        _zero(list(missing.values()))
        for parameter, _ in trainable:
            parameter.grad = None


def _take(view: torch.Tensor, missing: dict[torch.nn.Parameter, torch.Tensor], parameter: torch.nn.Parameter) -> None:
    """Move a gradient that has just arrived into its view; `missing` are those that still hold something else."""
    gradient = parameter.grad
    if gradient is None or gradient is view:
        return
    gradient = gradient.to_dense() if gradient.is_sparse else gradient
    if missing.pop(parameter, None) is None:
        view.add_(gradient)
    else:
        view.copy_(gradient)
    parameter.grad = view if view.dtype == parameter.dtype else None


def _zero(views: list[torch.Tensor]) -> None:
    """All at once."""
    if views:
        torch._foreach_zero_(views)


def _blocks_at_once(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> int:
    """How many blocks are multiplied in one call."""
    is_converted = left.dtype != dtype or right.dtype != dtype
    return min(_BLOCKS_AT_ONCE, _CONVERTED_AT_ONCE) if is_converted and left.device.type == "cpu" else _BLOCKS_AT_ONCE


def _pieces(rows: torch.Tensor, dtype: torch.dtype, at_once: int) -> Iterator[torch.Tensor]:
    """Rows (K, P') as (blocks, K, block) of a type, some blocks at a time."""
    block = min(_BLOCK, rows.shape[1])
    blocks = rows.view(len(rows), -1, block).transpose(0, 1)
    for piece in blocks.split(at_once):
        yield piece.to(dtype)


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


def _checked_dtype(dtype: object, name: str = "dtype") -> torch.dtype:
    """A type that gradients can have."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(
            f"`{name}` must be a floating type such as torch.float32 or torch.bfloat16, got {dtype!r}. In a "
            "configuration: '$torch.bfloat16'."
        )
    if dtype == torch.float16:
        raise TypeError(
            f"`{name}` must not be torch.float16, whose largest number is 65504: gradients are added up, with their "
            "loss scale, and overflow. Use torch.bfloat16, of the same size."
        )
    return dtype
