"""Sums over a run."""

import pytest
import torch

from bertswin_ext.networks import bertswin_tiny
from bertswin_ext.optimizers import GradientConductor, LionLARS
from bertswin_ext.runs.network_cost import network_cost
from bertswin_ext.runs.run_cost import Cards, RunPlan, largest_batch, memory_cost


@pytest.fixture(scope="module")
def network():
    return bertswin_tiny(num_layers=1)


@pytest.fixture
def plan(network):
    return RunPlan(
        network=network_cost(network),
        num_losses=3,
        row_bytes=4,
        previous_bytes=4,
        accumulation="classic",
        accumulation_steps=5,
        batch_size=10,
        num_steps=100,
        momenta=1,
        mixed=False,
    )


def test_flops_of_a_step(plan):
    forward, backward = plan.network.forward_flops, plan.network.backward_flops
    assert plan.step_flops == 50 * (forward + 3 * backward)
    assert plan._replace(accumulation="stochastic").step_flops == 50 * (forward + backward)
    assert plan._replace(num_losses=1).step_flops == 50 * (forward + backward)


def test_seconds_of_products(plan):
    alone = Cards(tflops=2.0, mfu=0.5)
    assert plan.step_seconds(alone) == pytest.approx(plan.step_flops / 1e12)
    assert plan.run_seconds(alone) == pytest.approx(100 * plan.step_flops / 1e12)
    assert plan.step_seconds(alone._replace(mfu=0.25)) == pytest.approx(2 * plan.step_seconds(alone))


def test_seconds_of_the_message(plan):
    """Round a ring of 4, a card sends 6 quarters of what is averaged."""
    alone = Cards(tflops=2.0, mfu=0.5, link_gb_s=10.0)
    added = plan.step_seconds(alone._replace(num_cards=4)) - plan.step_seconds(alone)
    assert added == pytest.approx(1.5 * 3 * 4 * plan.network.parameters / 10e9)


def test_sharded_gradients_are_sent_in_every_backward_pass(plan):
    """Round a ring of 4, a card sends 3 quarters of what is scattered."""
    sharded, alone = plan._replace(sharded=True, accumulation_steps=5), Cards(tflops=2.0, mfu=0.5, link_gb_s=10.0)
    added = sharded.step_seconds(alone._replace(num_cards=4)) - sharded.step_seconds(alone)
    assert added == pytest.approx(0.75 * 5 * 3 * 4 * plan.network.parameters / 10e9)


@pytest.mark.parametrize(("num_losses", "dtype", "row_bytes"), [(1, None, 4), (3, None, 4), (2, torch.bfloat16, 2)])
def test_memory_of_what_belongs_to_parameters(plan, network, num_losses, dtype, row_bytes):
    """As the conductor and the optimizer really allocate it, but for alignment."""
    conductor = GradientConductor(network, dict.fromkeys("abc"[:num_losses], 1.0), dtype=dtype)
    optimizer = LionLARS(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    previous = row_bytes if num_losses > 1 else 0
    cost = memory_cost(plan._replace(num_losses=num_losses, row_bytes=row_bytes, previous_bytes=previous))
    rows = [conductor.bank.state_dict()[part] or {} for part in ("rows", "previous")]
    assert cost.gradients == sum(row.numel() * row.element_size() for part in rows for row in part.values())
    assert cost.momenta == sum(state["momentum_buffer"].nbytes for state in optimizer.state.values())
    assert cost.weights == sum(parameter.nbytes for parameter in network.parameters())


def test_memory_of_a_batch(plan):
    one, ten = memory_cost(plan._replace(batch_size=1)), memory_cost(plan)
    assert ten.activations == 10 * one.activations
    assert ten.gradients == one.gradients
    assert ten.total == pytest.approx(sum(ten))


def test_sharded_parameters(plan):
    whole, shared = memory_cost(plan, 4), memory_cost(plan._replace(sharded=True), 4)
    assert 4 * shared.gradients == whole.gradients
    assert 4 * shared.momenta == whole.momenta
    assert shared.activations == whole.activations


def test_copies_for_autocast(plan):
    extra = memory_cost(plan._replace(mixed=True)).weights - memory_cost(plan).weights
    assert extra == 2 * plan.network.parameters


def test_the_largest_batch_fits_and_one_more_does_not(plan):
    most = largest_batch(plan, 1.0)
    assert most > 1
    assert memory_cost(plan._replace(batch_size=most)).total <= 1e9
    assert memory_cost(plan._replace(batch_size=most + 1)).total > 1e9


def test_no_room_at_all(plan):
    assert largest_batch(plan, 1e-3) == 0
