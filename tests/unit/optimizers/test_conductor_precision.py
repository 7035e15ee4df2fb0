"""The conductor under reduced precision, loss scaling and activation checkpointing."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from bertswin_ext.optimizers import GradientConductor, LionLARS
from tests.unit.optimizers.small_tasks import (
    WEIGHTS,
    gradients,
    losses_of,
    make_batches,
    make_network,
    same,
    train,
    values,
)


def step_of(network, losses, **kwargs):
    conductor = GradientConductor(network, WEIGHTS, **kwargs)
    conductor.accumulate(losses)
    assert conductor.conduct()
    return conductor


def scaled_step(conductor, optimizer, scaler, losses):
    """One step as documented for half precision."""
    conductor.accumulate({name: scaler.scale(loss) for name, loss in losses.items()})
    if conductor.conduct(scaler.get_scale()):
        scaler.step(optimizer)
        scaler.update()
    else:
        scaler.update(scaler.get_scale() * scaler.get_backoff_factor())
    return conductor.last_step


def scaled_run(batches, scaler, **kwargs):
    """Parameters and statistics after some steps."""
    network = make_network()
    conductor, optimizer = GradientConductor(network, WEIGHTS, **kwargs), LionLARS(network.parameters(), lr=0.01)
    steps = [scaled_step(conductor, optimizer, scaler, losses_of(network, x)) for x in batches]
    return values(network), steps


def growing_scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)


def test_rows_stay_float32_under_autocast():
    network, reference = make_network(), make_network()
    (x,) = make_batches(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(network, x)
        assert network(x).dtype == torch.bfloat16
    conductor = step_of(network, losses)
    assert conductor.bank.rows.dtype == torch.float32
    step_of(reference, losses_of(reference, x))
    for name, expected in gradients(reference).items():
        found = gradients(network)[name]
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm()


def test_everything_may_happen_inside_autocast():
    found = []
    for inside in (False, True):
        network = make_network()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = losses_of(network, make_batches(1)[0])
            conductor = GradientConductor(network, WEIGHTS)
        conductor.accumulate(losses)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            assert conductor.conduct()
        found.append(gradients(network))
    assert same(*found)


def test_bfloat16_rows_are_nearly_as_good():
    network, reference = make_network(), make_network()
    (x,) = make_batches(1)
    step_of(network, losses_of(network, x), dtype=torch.bfloat16)
    conductor = step_of(reference, losses_of(reference, x))
    assert conductor.last_step.conflicts
    for name, expected in gradients(reference).items():
        found = gradients(network)[name]
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("resolver", ["smooth", "zoned"])
def test_previous_rows_in_bfloat16_decide_alike(resolver):
    found = []
    for dtype in (None, torch.bfloat16):
        network = make_network()
        conductor = GradientConductor(network, WEIGHTS, resolver=resolver, previous_dtype=dtype)
        steps = train(network, conductor, LionLARS(network.parameters(), lr=0.01), make_batches(30))
        found.append((steps, values(network)))
    assert conductor.bank.rows.dtype == torch.float32
    assert len({conflict.winner for step in found[0][0] for conflict in step.conflicts}) > 1
    # the rows of the step before decide who wins, and nothing else
    assert [step.conflicts for step in found[0][0]] == [step.conflicts for step in found[1][0]]
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{}, {"resolver": "zoned"}, {"norm_cap": 0.3}, {"dominance_window": 2}], ids=str)
def test_loss_scaling_changes_nothing(kwargs):
    batches = make_batches(8)
    scaler = growing_scaler()
    scaled, scaled_steps = scaled_run(batches, scaler, **kwargs)
    plain, plain_steps = scaled_run(batches, torch.amp.GradScaler("cpu", enabled=False), **kwargs)
    assert scaler.get_scale() == 2.0**12
    assert any(step.conflicts for step in plain_steps)
    assert scaled_steps == plain_steps
    assert same(scaled, plain)


def test_an_overflow_skips_the_step_and_lowers_the_scale():
    batches = make_batches(1) * 4
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-40)
    scaled, steps = scaled_run(batches, scaler)
    assert [step.is_skipped for step in steps] == [True, True, False, False]
    assert scaler.get_scale() == 2.0**40
    plain, _ = scaled_run(batches[:2], torch.amp.GradScaler("cpu", enabled=False))
    assert same(scaled, plain)


def test_activation_checkpointing():
    found = []
    for keep in (True, False):
        network = make_network()
        (x,) = make_batches(1)
        module = network if keep else Checkpointed(network)
        step_of(network, losses_of(module, x))
        found.append(gradients(network))
    assert same(*found)


class Checkpointed(nn.Module):
    """The same network, whose activations are computed again for every gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return checkpoint(self.network, x, use_reentrant=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_have_the_type_of_their_parameters(dtype):
    network = make_network().to(dtype)
    step_of(network, losses_of(network, make_batches(1)[0].to(dtype)))
    assert {gradient.dtype for gradient in gradients(network).values()} == {dtype}
