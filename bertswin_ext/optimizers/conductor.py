"""One gradient from several losses."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from bertswin_ext.optimizers.arbiter import Arbiter
from bertswin_ext.optimizers.checks import (
    check_loss,
    check_model,
    checked_resolver,
    checked_result,
    checked_weights,
    is_number,
)
from bertswin_ext.optimizers.gradient_bank import GradientBank
from bertswin_ext.optimizers.processes import RowMessages, first_rank, make_equal
from bertswin_ext.optimizers.resolvers import RESOLVERS, Arbitrate, Resolver, checked_thresholds, cosines
from bertswin_ext.optimizers.statistics import Conflict, StepStatistics

__all__ = ["GradientConductor"]

logger = logging.getLogger(__name__)

_SUMMED = "summed"  # in a state: of how many processes the first rows, already sent, are the sum


class GradientConductor:
    """Accumulate the gradients of several losses, resolve their conflicts, hand the result to any optimizer.

    Each loss has a gradient row of its own. Once ``accumulation_steps`` micro-batches are in, the conductor looks at
    the inner products of the rows, decides on one weight for each, and makes the weighted sum of the rows the model's
    gradient: ``parameter.grad``, where clipping and every torch optimizer find it. With one loss that is plain
    gradient accumulation, bit for bit.

    Args:
        model: the model, not wrapped for data-parallel training. Only parameters that require gradients now take part.
        loss_weights: weight of every loss, by name.
        accumulation_steps: micro-batches per optimizer step.
        accumulation: "classic", every loss on every micro-batch; or "stochastic", the micro-batches of a step are dealt
            out, first all for the first loss by name, then all for the second, at the cost of a single loss.
        resolver: "smooth", "zoned", or a function from the Gramian (K, K) of the weighted gradients to weights (K,),
            such as a weighting of the ``torchjd`` package.
        thresholds: cosines (critical, main, weak) of the zones of "smooth" and "zoned".
        max_conflicts: decisions per step at most; by default two for each loss.
        norm_cap: scale a loss' gradient down to this norm before conflicts are looked for.
        norm_decay: decay of the running averages of the gradients' norms.
        dominance_window: conflicts won in a row after which a loss yields; 0 for never.
        dtype: of the rows; by default float32, or float64 where a parameter is. bfloat16 takes half the memory.
        previous_dtype: of the rows of the step before, which only tell how steady a gradient is; by default that of the
            rows. With bfloat16 all rows take three quarters of the memory, and nothing else is rounded.
        sync: how the rows of several processes become one before anything is decided: "mean", "sum", or "none". A row
            is sent once its last micro-batch of the step is in, while the gradients of other losses are computed.
        process_group: the processes that share the work; by default all.
        max_skipped_steps: steps with gradients that are not finite, one after another, that end the training; overflows
            of scaled losses are not counted.

    Raises:
        ValueError: an argument is out of range, or the model has nothing to train.
        TypeError: the model is no module or the resolver is neither a name nor a function.

    Source: GradientConductor, arXiv 2509.07252. Ours keeps raw float32 rows, averages them over processes before it
    decides, compares with the raw gradients of the step before, and leaves momentum and learning rate to the optimizer
    (`LionLARS` for the paper's).

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> conductor = GradientConductor(model, {"near": 1.0, "small": 0.1})
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> output = model(torch.ones(3, 2))
        >>> if conductor.accumulate({"near": (output - 1).square().mean(), "small": output.abs().mean()}):
        ...     if conductor.conduct():
        ...         optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        loss_weights: Mapping[str, float],
        *,
        accumulation_steps: int = 1,
        accumulation: Literal["classic", "stochastic"] = "classic",
        resolver: Literal["smooth", "zoned"] | Resolver = "smooth",
        thresholds: Sequence[float] = (-0.8, -0.5, 0.0),
        max_conflicts: int | None = None,
        norm_cap: float | None = None,
        norm_decay: float = 0.95,
        dominance_window: int = 0,
        dtype: torch.dtype | None = None,
        previous_dtype: torch.dtype | None = None,
        sync: Literal["mean", "sum", "none"] = "mean",
        process_group: dist.ProcessGroup | None = None,
        max_skipped_steps: int = 10,
    ) -> None:
        check_model(model)
        self.loss_weights = checked_weights(loss_weights)
        self.tasks = list(self.loss_weights)
        self.accumulation_steps = accumulation_steps
        self.accumulation = accumulation
        self.resolver = checked_resolver(resolver, RESOLVERS)
        self.thresholds = checked_thresholds(thresholds)
        self.max_conflicts = max_conflicts
        self.norm_cap = norm_cap
        self.sync = sync
        self.process_group = process_group
        self.max_skipped_steps = max_skipped_steps
        self._check_numbers()
        self.arbiter = Arbiter(self.tasks, norm_decay, dominance_window=dominance_window)
        self._arbitrates = isinstance(resolver, str) and len(self.tasks) > 1
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.bank = GradientBank(parameters, len(self.tasks), dtype, self._arbitrates, previous_dtype)
        self.last_step: StepStatistics | None = None
        self.num_steps = 0
        self.num_skipped = 0
        self._skipped_in_a_row = 0
        self._num_batches = 0
        self._counts = dict.fromkeys(self.tasks, 0)
        self._messages = RowMessages(process_group)
        self._was_shared = self._is_shared()
        if self._was_shared:
            make_equal(model, process_group)

    @property
    def due_tasks(self) -> list[str]:
        """Losses that the next `accumulate` takes the gradient of; nothing else needs to be computed for it."""
        if self.accumulation == "classic":
            return list(self.tasks)
        return [self.tasks[self._num_batches % self.accumulation_steps // self._share()]]

    def accumulate(self, losses: Mapping[str, torch.Tensor]) -> bool:
        """Add one micro-batch' gradients; the losses' graphs are used up.

        Args:
            losses: scalars by name, unweighted: all of them, or in stochastic accumulation at least the one that is
                due.

        Returns:
            Whether the step is complete and `conduct` is next.

        Raises:
            ValueError: a loss is missing, unknown, not a scalar, or does not require grad; or the step has been
                complete before.
            TypeError: a loss is no tensor.
        """
        if self._num_batches >= self.accumulation_steps:
            raise ValueError(
                f"All {self.accumulation_steps} micro-batches of this step are in. Call `conduct` before the next one."
            )
        due = self.due_tasks
        self._check_losses(losses, due)
        for task in due:
            factor = self.loss_weights[task] / self._share()
            self.bank.accumulate(self.tasks.index(task), losses[task], factor, retain_graph=task != due[-1])
            self._counts[task] += 1
            self._send_complete()
        self._num_batches += 1
        return self._num_batches == self.accumulation_steps

    def conduct(self, loss_scale: float = 1.0) -> bool:
        """Decide, and put the result in the parameters' ``grad``.

        May be called before all micro-batches are in, at the end of an epoch for example: means are then over those
        that are. Under data parallelism all processes must call it together.

        Args:
            loss_scale: what the losses were multiplied by, for half precision: `GradScaler.get_scale`. The gradients
                put out keep it, for the scaler to take away; norms, caps and statistics are without.

        Returns:
            Whether there is a gradient to step with. False: a task's gradient was not finite; nothing has changed but
            the count of skipped steps, and the optimizer must not step.

        Raises:
            ValueError: nothing was accumulated; too many steps in a row were not finite; or the resolver returned
                something else than K finite weights.
        """
        if self._num_batches == 0:
            raise ValueError("Nothing has been accumulated for this step. Call `accumulate` with the losses first.")
        if self._is_shared() != self._was_shared:
            raise ValueError(
                "Make the conductor after `init_process_group`: it was made in one process, and now there are several, "
                "which did not start from the same weights."
            )
        self._finish_rows()
        # rows are sums over the processes: to divide K x K numbers is cheaper than to divide K x P
        row_scale = loss_scale * self._num_averaged()
        gramian = self.bank.gramian() / row_scale**2
        self.num_steps += 1
        not_finite = [task for task, square in self._by_task(gramian.diagonal()).items() if not math.isfinite(square)]
        if not_finite:
            self._skip(not_finite, gramian, counts=loss_scale <= 1)
            return False
        self.bank.combine(self._decide(gramian, row_scale) / self._num_averaged())
        self._skipped_in_a_row = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything that outlives a micro-batch, in mid-accumulation too; tensors are not copied."""
        self._messages.wait()
        return {
            "tasks": list(self.tasks),
            "accumulation": self.accumulation,
            "accumulation_steps": self.accumulation_steps,
            "num_steps": self.num_steps,
            "num_skipped": self.num_skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
            "num_batches": self._num_batches,
            "counts": dict(self._counts),
            _SUMMED: self._messages.summed,
            "arbiter": self.arbiter.state_dict(),
            "bank": self.bank.state_dict(pending=self._num_batches > 0),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where another conductor was.

        Raises:
            ValueError: it is none, or had other losses, another accumulation, or another model.
        """
        missing = sorted(set(self.state_dict()) - {_SUMMED} - set(state_dict))
        if missing:
            raise ValueError(
                f"The state of a conductor must have {', '.join(missing)}, found {', '.join(list(state_dict)[:5])}. "
                "Load what `state_dict` of a conductor returned."
            )
        for name in ("tasks", "accumulation", "accumulation_steps"):
            if state_dict[name] != getattr(self, name):
                raise ValueError(
                    f"The state has {name} {state_dict[name]}, this conductor {getattr(self, name)}. Make the "
                    "conductor with the arguments it was saved with."
                )
        self._messages.clear()
        self.bank.load_state_dict(state_dict["bank"])
        self._divide(state_dict.get(_SUMMED, []))
        self.arbiter.load_state_dict(state_dict["arbiter"])
        self.num_steps = state_dict["num_steps"]
        self.num_skipped = state_dict["num_skipped"]
        self._skipped_in_a_row = state_dict["skipped_in_a_row"]
        self._num_batches = state_dict["num_batches"]
        self._counts = dict(state_dict["counts"])

    def _finish_rows(self) -> None:
        """Sums of fewer micro-batches than planned become means of as many, and those of all processes are there."""
        self.bank.scale([self._share() / count if count else 1.0 for count in self._counts.values()])
        if self._was_shared:
            self._messages.send(self.bank, len(self.tasks))
        self._messages.clear()
        self.bank.close()
        self._num_batches, self._counts = 0, dict.fromkeys(self.tasks, 0)

    def _send_complete(self) -> None:
        """Send the first rows that have all their micro-batches."""
        if self._was_shared:
            complete = [count == self._share() for count in self._counts.values()]
            self._messages.send(self.bank, [*complete, False].index(False))

    def _divide(self, num_processes: Sequence[int]) -> None:
        """Give every process an equal share of the first rows, as if they had not been summed."""
        factors = [1 / number for number in num_processes]
        self.bank.scale(factors + [1.0] * (len(self.tasks) - len(factors)))

    def _num_averaged(self) -> int:
        """Processes whose mean is wanted of the sums that the rows are."""
        return self._messages.num_processes if self._was_shared and self.sync == "mean" else 1

    def _decide(self, gramian: torch.Tensor, row_scale: float) -> torch.Tensor:
        """Weights of the raw rows (K,), and the statistics of the step."""
        norms = gramian.diagonal().clamp(min=0).sqrt()
        caps = torch.ones_like(norms) if self.norm_cap is None else (self.norm_cap / norms).clamp(max=1.0)
        self.arbiter.observe(norms)
        conflicts: list[Conflict] = []

        def arbitrate(mixing: torch.Tensor, products: torch.Tensor, i: int, j: int) -> int:
            if not conflicts:
                # the step before matters only where there is a conflict
                self.arbiter.look_back(self.bank.cross_gramian() * caps[:, None] / row_scale)
            winner = self.arbiter.decide(mixing, products, i, j)
            conflicts.append(Conflict(self.tasks[winner], self.tasks[i + j - winner]))
            return winner

        resolved = self._resolve(gramian * caps[:, None] * caps, arbitrate)
        # the rows that stay in the bank have the scale
        self.arbiter.close(norms * row_scale)
        weights = resolved * caps
        self.last_step = self._statistics(gramian, weights, tuple(conflicts))
        return weights

    def _resolve(self, gramian: torch.Tensor, arbitrate: Arbitrate) -> torch.Tensor:
        """Weights from the Gramian (K, K), checked where they come from a user's function."""
        if len(self.tasks) == 1:
            return torch.ones(1, dtype=torch.float64)
        if isinstance(self.resolver, str):
            return RESOLVERS[self.resolver](gramian, arbitrate, self.thresholds, self.max_conflicts)
        weights = checked_result(self.resolver(gramian), len(self.tasks))
        return self._of_first_process(weights)

    def _of_first_process(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights of the first process: a user's function may draw random numbers."""
        if not self._is_shared():
            return weights
        on_device = weights.to(self.bank.device)
        dist.broadcast(on_device, src=first_rank(self.process_group), group=self.process_group)
        return on_device.cpu()

    def _skip(self, not_finite: Sequence[str], gramian: torch.Tensor, counts: bool) -> None:
        """Drop the step, and end the training if it goes on like this; a scaler that looks for its scale may go on."""
        self.bank.discard()
        self.num_skipped += 1
        self._skipped_in_a_row += counts
        self.last_step = self._statistics(gramian, torch.zeros(len(self.tasks)), (), tuple(not_finite))
        names = ", ".join(repr(task) for task in not_finite)
        logger.warning("step %d skipped: the gradient of %s is not finite", self.num_steps, names)
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise ValueError(
                f"{self._skipped_in_a_row} steps in a row were skipped because the gradient of {names} was not finite. "
                "Lower the learning rate, look at that loss (a division or a root at zero?) and at the data; the "
                "parameters are those of the last good step."
            )

    def _statistics(
        self,
        gramian: torch.Tensor,
        weights: torch.Tensor,
        conflicts: tuple[Conflict, ...],
        not_finite: tuple[str, ...] = (),
    ) -> StepStatistics:
        """The step in numbers."""
        between = cosines(gramian)
        return StepStatistics(
            step=self.num_steps,
            norms=self._by_task(gramian.diagonal().clamp(min=0).sqrt()),
            norm_averages=self._by_task(self.arbiter.norm_averages),
            cosines={
                (self.tasks[i], self.tasks[j]): float(between[i, j]) for i, j in combinations(range(len(self.tasks)), 2)
            },
            weights=self._by_task(weights),
            conflicts=conflicts,
            not_finite=not_finite,
            num_skipped=self.num_skipped,
        )

    def _by_task(self, values: torch.Tensor) -> dict[str, float]:
        """K numbers by name."""
        return dict(zip(self.tasks, values.tolist(), strict=True))

    def _share(self) -> int:
        """Micro-batches of a step that each loss gets."""
        return self.accumulation_steps // (len(self.tasks) if self.accumulation == "stochastic" else 1)

    def _is_shared(self) -> bool:
        """Whether several processes work on one step."""
        return self.sync != "none" and dist.is_initialized() and dist.get_world_size(self.process_group) > 1

    def _check_numbers(self) -> None:
        """Refuse arguments that are out of range."""
        for name in ("accumulation_steps", "max_skipped_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        for name, choices in (("accumulation", ("classic", "stochastic")), ("sync", ("mean", "sum", "none"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.accumulation == "stochastic" and self.accumulation_steps % len(self.tasks):
            raise ValueError(
                f"Stochastic accumulation deals the micro-batches of a step out evenly: `accumulation_steps` must be a "
                f"multiple of the {len(self.tasks)} losses, got {self.accumulation_steps}."
            )
        if self.norm_cap is not None and not (is_number(self.norm_cap) and self.norm_cap > 0):
            raise ValueError(f"`norm_cap` must be positive or None, got {self.norm_cap!r}.")
        if self.max_conflicts is not None and not (isinstance(self.max_conflicts, int) and self.max_conflicts >= 0):
            raise ValueError(f"`max_conflicts` must be a number of decisions or None, got {self.max_conflicts!r}.")

    def _check_losses(self, losses: Mapping[str, torch.Tensor], due: Sequence[str]) -> None:
        """Refuse losses that have no gradient to take."""
        missing = sorted(set(due) - set(losses))
        unknown = sorted(set(losses) - set(self.tasks))
        if missing or unknown:
            raise ValueError(
                f"The losses must be those of `loss_weights`, {', '.join(self.tasks)}; got {', '.join(losses)}"
                f"{'; missing: ' + ', '.join(missing) if missing else ''}"
                f"{'; unknown: ' + ', '.join(unknown) if unknown else ''}."
            )
        for task in due:
            check_loss(task, losses[task])
