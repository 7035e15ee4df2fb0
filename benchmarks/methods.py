"""The ways to make one step out of several losses that `conductor.py` compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from tensor_loops import Loop, Losses, Method
from torchjd.aggregation import Aggregator
from torchjd.autojac import backward as jacobian_backward
from torchjd.autojac import jac_to_grad
from torchjd.linalg import DualConeProjector

from bertswin_ext.optimizers import GradientConductor

__all__ = ["ActiveSetProjector", "Conducted", "Jacobian", "Loop", "Losses", "Method"]


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
