"""What a pre-training run costs: FLOPs, memory of a card, hours."""

from __future__ import annotations

from typing import NamedTuple

from bertswin_ext.runs.network_cost import NetworkCost

__all__ = ["GPUS", "Cards", "Gpu", "MemoryCost", "RunPlan", "largest_batch", "memory_cost"]

_SINGLE, _HALF = 4, 2
_PASSING = 3  # activations of the largest layer that the backward pass has at a time, as measured


class Gpu(NamedTuple):
    """A card by its data sheet: bfloat16, dense matrices, sums in float32."""

    tflops: float
    memory_gb: float


GPUS = {
    "RTX 3090": Gpu(71, 24),
    "RTX 4090": Gpu(165, 24),
    "L40S": Gpu(362, 48),
    "A100": Gpu(312, 80),
    "H100": Gpu(989, 80),
    "H200": Gpu(989, 141),
}


class Cards(NamedTuple):
    """What the run has.

    Attributes:
        tflops: of one card at its best, in the type of the run's products.
        mfu: share of these that the run's products reach.
        num_cards: number of cards, one process each.
        link_gb_s: gigabytes a second that a card sends to another.
    """

    tflops: float
    mfu: float
    num_cards: int = 1
    link_gb_s: float = 25.0


class RunPlan(NamedTuple):
    """What decides about a run's cost.

    Attributes:
        network: the cost of one sample.
        num_losses: losses of the conductor.
        row_bytes: of a number in the conductor's gradients.
        previous_bytes: ... in those of the step before; 0 if they are not kept.
        accumulation: "classic" or "stochastic".
        accumulation_steps: micro-batches of an optimizer step.
        batch_size: samples of a micro-batch, in one process.
        num_steps: optimizer steps of the run.
        momenta: numbers that the optimizer keeps for every parameter.
        mixed: autocast in bfloat16.
        sharded: weights, gradients and momenta are dealt out to all cards.
    """

    network: NetworkCost
    num_losses: int
    row_bytes: int
    previous_bytes: int
    accumulation: str
    accumulation_steps: int
    batch_size: int
    num_steps: int
    momenta: int
    mixed: bool
    sharded: bool = False

    @property
    def backward_passes(self) -> int:
        """Backward passes of a micro-batch."""
        return self.num_losses if self.accumulation == "classic" else 1

    @property
    def samples_of_step(self) -> int:
        """Samples of an optimizer step, in one process."""
        return self.accumulation_steps * self.batch_size

    @property
    def sample_flops(self) -> float:
        """One forward pass, and the backward passes."""
        return self.network.forward_flops + self.backward_passes * self.network.backward_flops

    @property
    def step_flops(self) -> float:
        """Of an optimizer step, in one process."""
        return self.samples_of_step * self.sample_flops

    @property
    def message_bytes(self) -> int:
        """What the processes send in an optimizer step: a gradient of every loss; sharded, of every backward pass."""
        if self.sharded:
            return self.accumulation_steps * self.backward_passes * self.network.parameters * _SINGLE
        return self.num_losses * self.network.parameters * self.row_bytes

    def step_seconds(self, cards: Cards) -> float:
        """An optimizer step: products, then the message, which goes round a ring twice; sharded, once."""
        products = self.step_flops / (cards.tflops * 1e12 * cards.mfu)
        rounds = (1 if self.sharded else 2) * (cards.num_cards - 1) / cards.num_cards
        return products + rounds * self.message_bytes / (cards.link_gb_s * 1e9)

    def run_seconds(self, cards: Cards) -> float:
        """All optimizer steps; validation is not counted."""
        return self.num_steps * self.step_seconds(cards)


class MemoryCost(NamedTuple):
    """Bytes of a card, by what they are for.

    Attributes:
        weights: of the network, and their bfloat16 copies under autocast.
        gradients: of every loss, and those of the step before.
        momenta: of the optimizer.
        activations: what the forward pass keeps, of one micro-batch.
        passing: what the backward pass has at a time besides.
    """

    weights: float
    gradients: float
    momenta: float
    activations: float
    passing: float

    @property
    def total(self) -> float:
        """At the worst moment."""
        return sum(self)


def memory_cost(plan: RunPlan, num_cards: int = 1) -> MemoryCost:
    """Memory of a card.

    The libraries' own memory, 0.5 to 1 GB on a GPU, and what an allocator cannot use are not in it.

    Args:
        plan: the run.
        num_cards: that share what is sharded.
    """
    share = plan.network.parameters / (num_cards if plan.sharded else 1)
    return MemoryCost(
        weights=share * _SINGLE + plan.network.parameters * _HALF * plan.mixed,
        gradients=share * plan.num_losses * (plan.row_bytes + plan.previous_bytes),
        momenta=share * plan.momenta * _SINGLE,
        activations=plan.batch_size * plan.network.kept_bytes,
        passing=plan.batch_size * _PASSING * plan.network.largest_bytes,
    )


def largest_batch(plan: RunPlan, memory_gb: float, num_cards: int = 1) -> int:
    """The most samples of a micro-batch that fit into a card; 0 if there is no room for one.

    Args:
        plan: the run.
        memory_gb: of the card.
        num_cards: that share what is sharded.
    """
    fixed = memory_cost(plan._replace(batch_size=0), num_cards).total
    each = memory_cost(plan._replace(batch_size=1), num_cards).total - fixed
    return max(0, int((memory_gb * 1e9 - fixed) // each))
