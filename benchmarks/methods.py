"""The ways to make one step out of several losses that `conductor.py` compares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import torch
from torchjd.aggregation import Aggregator
from torchjd.autojac import backward as jacobian_backward
from torchjd.autojac import jac_to_grad
from torchjd.linalg import DualConeProjector

from bertswin_ext.optimizers import GradientConductor

Losses = Mapping[str, torch.Tensor]


class Method:
    """Plain training, and the parts that every other method has as well: backward, decide, update, clear.

    Args:
        network: is trained.
        optimizer: makes the step.
        tasks: names of the losses that `backward` is given.
        accumulation_steps: micro-batches of a step.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None,
        tasks: Sequence[str],
        accumulation_steps: int = 1,
    ) -> None:
        self.parameters = list(network.parameters())
        self.optimizer = optimizer
        self.tasks = list(tasks)
        self.accumulation_steps = accumulation_steps

    def backward(self, losses: Losses) -> None:
        """Take in one micro-batch."""
        for loss, is_last in _with_last(losses):
            loss.backward(torch.full_like(loss, 1 / self.accumulation_steps), retain_graph=not is_last)

    def decide(self) -> None:
        """Make one gradient of what was taken in."""

    def update(self) -> None:
        """Move the parameters."""
        self.optimizer.step()

    def clear(self) -> None:
        """Be ready for the next step."""
        for parameter in self.parameters:
            parameter.grad = None


class Conducted(Method):
    """`GradientConductor` and an optimizer."""

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        tasks: Sequence[str],
        accumulation_steps: int = 1,
        accumulation: str = "classic",
    ) -> None:
        super().__init__(network, optimizer, tasks, accumulation_steps)
        self.conductor = GradientConductor(
            network, dict.fromkeys(tasks, 1.0), accumulation_steps=accumulation_steps, accumulation=accumulation
        )

    def backward(self, losses: Losses) -> None:
        """A row for each loss."""
        self.conductor.accumulate(losses)

    def decide(self) -> None:
        """Conduct."""
        self.conductor.conduct()

    def clear(self) -> None:
        """Zero the rows now; left alone, the next `accumulate` would."""
        super().clear()
        self.conductor.bank._clear()


class Jacobian(Method):
    """An aggregator of torchjd, through its own differentiation: ``parameter.jac``, then ``parameter.grad``.

    Losses are differentiated one after the other: all at once, torchjd's default, relies on `torch.vmap`, which does
    not know the backward pass of the convolutions on large volumes.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        tasks: Sequence[str],
        accumulation_steps: int = 1,
        aggregator: Aggregator | None = None,
    ) -> None:
        super().__init__(network, optimizer, tasks, accumulation_steps)
        self.aggregator = aggregator

    def backward(self, losses: Losses) -> None:
        """Add to the Jacobian."""
        scaled = [loss / self.accumulation_steps for loss in losses.values()]
        jacobian_backward(scaled, inputs=self.parameters, parallel_chunk_size=1)

    def decide(self) -> None:
        """Aggregate the Jacobian."""
        jac_to_grad(self.parameters, self.aggregator)


class Loop(Method):
    """The method as it is written down, tensor by tensor: cosines, smooth projections, Lion with trust ratio.

    Gradients are lists of tensors; an inner product is the sum of the tensors' inner products, and none is taken twice;
    a projection makes new tensors, so that the raw gradients are there for the next step's arbitration without a copy.

    Source: steps 1 to 5 of arXiv 2509.07252, with the defaults of `GradientConductor` and `LionLARS`.
    """

    def __init__(self, network: torch.nn.Module, tasks: Sequence[str], accumulation_steps: int = 1) -> None:
        super().__init__(network, None, tasks, accumulation_steps)
        self.rows = {task: self._zeros() for task in tasks}
        self.previous = {task: self._zeros() for task in tasks}
        self.norms = dict.fromkeys(tasks, 0.0)
        self.averages = dict.fromkeys(tasks, 1.0)
        self.momentum = self._zeros()
        self.num_steps = 0

    def backward(self, losses: Losses) -> None:
        """Add every loss' gradient to its list."""
        for task, is_last in _with_last({task: task for task in self.tasks}):
            gradients = torch.autograd.grad(losses[task], self.parameters, retain_graph=not is_last)
            for total, gradient in zip(self.rows[task], gradients, strict=True):
                total.add_(gradient, alpha=1 / self.accumulation_steps)

    def decide(self) -> None:
        """Project conflicting gradients and add all of them up."""
        raw_norms = {task: math.sqrt(_dot(row, row)) for task, row in self.rows.items()}
        self.averages = {task: 0.95 * self.averages[task] + 0.05 * norm for task, norm in raw_norms.items()}
        resolved, norms = dict(self.rows), dict(raw_norms)
        for _ in range(2 * len(self.tasks)):
            pairs = {(i, j): _dot(resolved[i], resolved[j]) for i, j in combinations(self.tasks, 2)}
            cosine, (i, j) = min((product / (norms[i] * norms[j]), (i, j)) for (i, j), product in pairs.items())
            if cosine >= -1e-6:
                break
            winner, loser = self._arbitrate(resolved, norms, i, j)
            for_winner, for_loser = _shares(cosine)
            old_winner, old_loser = resolved[winner], resolved[loser]
            resolved[winner] = _minus(old_winner, for_winner * pairs[i, j] / norms[loser] ** 2, old_loser)
            resolved[loser] = _minus(old_loser, for_loser * pairs[i, j] / norms[winner] ** 2, old_winner)
            norms |= {task: math.sqrt(_dot(resolved[task], resolved[task])) for task in (i, j)}
        self.norms = raw_norms
        for parameter, *gradients in zip(self.parameters, *resolved.values(), strict=True):
            parameter.grad = sum(gradients[1:], start=gradients[0])

    @torch.no_grad()
    def update(self) -> None:
        """Sign of the momentum, with trust ratio."""
        self.num_steps += 1
        for parameter, momentum in zip(self.parameters, self.momentum, strict=True):
            momentum.mul_(0.9).add_(parameter.grad, alpha=0.1)
            corrected = momentum / (1 - 0.9**self.num_steps)
            norms = float(parameter.norm()), float(corrected.norm())
            ratio = min(norms[0] / norms[1], 10.0) if min(norms) > 1e-8 else 1.0
            parameter.sub_(corrected.sign(), alpha=1e-6 * ratio)

    def clear(self) -> None:
        """The raw gradients become the previous ones."""
        super().clear()
        self.rows, self.previous = self.previous, self.rows
        for row in self.rows.values():
            for gradient in row:
                gradient.zero_()

    def _zeros(self) -> list[torch.Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.parameters]

    def _arbitrate(
        self, resolved: Mapping[str, list[torch.Tensor]], norms: Mapping[str, float], i: str, j: str
    ) -> tuple[str, str]:
        """Winner and loser by steadiness and strength."""
        strengths = {task: norms[task] / self.averages[task] for task in (i, j)}
        scores = {
            task: 0.8 * max(0.0, _dot(resolved[task], self.previous[task]) / (norms[task] * self.norms[task] or 1.0))
            + 0.2 * strengths[task] / sum(strengths.values())
            for task in (i, j)
        }
        return (j, i) if scores[j] > scores[i] else (i, j)


class ActiveSetProjector(DualConeProjector):
    """Smallest v'Gv with v >= u, by trying which entries stay at their bound: exact, and quick for a few tasks.

    torchjd's own projector for UPGrad is the package quadprog, under the GPL; scaling and regularization as there.
    """

    def __call__(self, U: torch.Tensor, G: torch.Tensor) -> torch.Tensor:  # noqa: N803
        """Project every row of weights.

        Args:
            U: rows of weights (..., K).
            G: Gramian (K, K).
        """
        gramian = (G / G.diagonal().sum()).double().cpu() + 1e-4 * torch.eye(len(G), dtype=torch.float64)
        rows = [self._project(u, gramian) for u in U.double().cpu().reshape(-1, len(G))]
        return torch.stack(rows).reshape(U.shape).to(U)

    @staticmethod
    def _project(u: torch.Tensor, gramian: torch.Tensor) -> torch.Tensor:
        """The one solution that meets the conditions; failing that by rounding, the one that nearly does."""

        def violation(v: torch.Tensor) -> float:
            return -min(float((v - u).min()), float((gramian @ v).min()))

        return min(_candidates(u, gramian), key=violation)


def _candidates(u: torch.Tensor, gramian: torch.Tensor) -> Iterator[torch.Tensor]:
    """Minimum of v'Gv for every choice of entries that are free, the others being those of u."""
    for count in range(len(u) + 1):
        for free in map(list, combinations(range(len(u)), count)):
            bound = [k for k in range(len(u)) if k not in free]
            v = u.clone()
            if free:
                v[free] = torch.linalg.solve(gramian[free][:, free], -gramian[free][:, bound] @ u[bound])
            yield v


def _shares(cosine: float) -> tuple[float, float]:
    """How much of the other's direction winner and loser give up, with the thresholds -0.8, -0.5 and 0."""
    if cosine >= -0.5:
        angle = math.pi / 2 * (1 - (cosine + 0.5) / 0.5)
    else:
        angle = math.pi / 2 * (1 + min(1.0, (cosine + 0.5) / -0.3) ** 2)
    return math.sin(angle), math.sin(min(angle, math.pi / 2))


def _minus(left: list[torch.Tensor], factor: float, right: list[torch.Tensor]) -> list[torch.Tensor]:
    """``left - factor * right``, tensor by tensor."""
    return [a.sub(b, alpha=factor) for a, b in zip(left, right, strict=True)]


def _dot(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Inner product of two lists of tensors."""
    return float(sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(left, right, strict=True)))


def _with_last(values: Mapping[str, object]) -> Iterator[tuple]:
    """Every value, and whether it is the last."""
    for index, value in enumerate(values.values(), start=1):
        yield value, index == len(values)
