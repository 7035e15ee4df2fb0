"""Ways to make a step that need nothing but torch: plain training, and the conductor's method tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import torch

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


class TensorLion:
    """Sign of the momentum with trust ratio, one tensor after the other.

    Args:
        parameters: what it moves.
        lr: learning rate.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], lr: float = 1e-6) -> None:
        self.parameters, self.lr = list(parameters), lr
        self.momenta = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.num_steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter."""
        self.num_steps += 1
        for parameter, momentum in zip(self.parameters, self.momenta, strict=True):
            momentum.mul_(0.9).add_(parameter.grad, alpha=0.1)
            corrected = momentum / (1 - 0.9**self.num_steps)
            norms = float(parameter.norm()), float(corrected.norm())
            ratio = min(norms[0] / norms[1], 10.0) if min(norms) > 1e-8 else 1.0
            parameter.sub_(corrected.sign(), alpha=self.lr * ratio)


class Loop(Method):
    """The method as it is written down, tensor by tensor: cosines, smooth projections, Lion with trust ratio.

    Gradients are lists of tensors; an inner product is the sum of the tensors' inner products, and none is taken twice;
    a projection makes new tensors, so that the raw gradients are there for the next step's arbitration without a copy.

    Source: steps 1 to 5 of arXiv 2509.07252, with the defaults of `GradientConductor` and `LionLARS`.
    """

    def __init__(self, network: torch.nn.Module, tasks: Sequence[str], accumulation_steps: int = 1) -> None:
        super().__init__(network, TensorLion(network.parameters()), tasks, accumulation_steps)
        self.rows = {task: self._zeros() for task in tasks}
        self.previous = {task: self._zeros() for task in tasks}
        self.norms = dict.fromkeys(tasks, 0.0)
        self.averages = dict.fromkeys(tasks, 1.0)

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
