import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from bertswin_ext.optimizers.gradient_bank import GradientBank
from bertswin_ext.optimizers.sharded_bank import Parts, ShardedBank
from tests.ranks import found_by
from tests.unit.optimizers.small_tasks import losses_of, make_batches, make_network

pytestmark = pytest.mark.dist

TASKS = ["far", "flat", "near"]
FACTORS = [0.5, 2.0, 1.0]


def make_bank(network, dtype=None):
    parts = Parts(network)
    return ShardedBank(GradientBank(dict(parts.named_parameters()), len(TASKS), dtype), parts)


def fill(bank, network, x):
    losses = losses_of(network, x)
    for index, (task, factor) in enumerate(zip(TASKS, FACTORS, strict=True)):
        bank.accumulate(index, losses[task], factor, retain_graph=index < 2)


def two_steps(bank, network):
    """Both Gramians after two steps with the same data everywhere, and the gradient."""
    first, *second = make_batches(3)
    fill(bank, network, first)
    bank.combine(torch.tensor([1.0, 1.0, 1.0]))
    for x in second:
        fill(bank, network, x)
    bank.scale([0.5, 0.5, 1.0])
    return {"gramian": bank.gramian(), "cross": bank.cross_gramian()}


def whole(network):
    return {name: p.grad.full_tensor() for name, p in network.named_parameters()}


def refused(call, *arguments):
    try:
        call(*arguments)
    except ValueError as error:
        return str(error)
    return "no error"


def work(rank):
    network = make_network()
    fully_shard(network)
    bank = make_bank(network)
    found = two_steps(bank, network)
    found["state"] = bank.state_dict()
    found["closed state"] = bank.state_dict(pending=False)["rows"]
    bank.combine(torch.tensor([0.25, 1.0, -1.0]))
    found["gradient"] = whole(network)
    found["numbers"] = sum(part.numel() for part in bank.parts)
    bank.discard()
    found["discarded"] = all(p.grad is None for p in network.parameters())
    half = make_bank(network, dtype=torch.bfloat16)
    found["half"] = two_steps(half, network)
    # another bank of the same model, from the state of a bank in one process
    alone = make_network()
    single = GradientBank(dict(alone.named_parameters()), len(TASKS))
    two_steps(single, alone)
    taken = make_bank(network)
    taken.load_state_dict(single.state_dict())
    found["taken"] = {"gramian": taken.gramian(), "cross": taken.cross_gramian()}
    other = GradientBank({**dict(alone.named_parameters()), "2.bias": nn.Parameter(torch.zeros(7))}, len(TASKS))
    found["other model"] = refused(taken.load_state_dict, other.state_dict())
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by(2, work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def expected():
    """What a bank of the whole network finds."""
    network = make_network()
    bank = GradientBank(dict(network.named_parameters()), len(TASKS))
    found = two_steps(bank, network)
    found["state"] = {key: value.copy() for key, value in bank.state_dict().items()}
    for key in ("rows", "previous"):
        found["state"][key] = {name: rows.clone() for name, rows in found["state"][key].items()}
    bank.combine(torch.tensor([0.25, 1.0, -1.0]))
    found["gradient"] = {name: p.grad.clone() for name, p in network.named_parameters()}
    found["shapes"] = {name: tuple(p.shape) for name, p in network.named_parameters()}
    return found


def test_products_are_those_of_the_whole_rows(ranks, expected):
    for found in ranks:
        for name in ("gramian", "cross"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-8)
            assert torch.equal(found[name], ranks[0][name])


def test_the_gradient_is_dealt_out(ranks, expected):
    for found in ranks:
        for name, gradient in expected["gradient"].items():
            torch.testing.assert_close(found["gradient"][name], gradient, rtol=1e-6, atol=1e-7)
        assert found["discarded"]
    numbers = [found["numbers"] for found in ranks]
    assert sum(numbers) == sum(gradient.numel() for gradient in expected["gradient"].values())
    assert max(numbers) < 0.6 * sum(numbers)


def test_rows_of_half_precision(ranks, expected):
    for found in ranks:
        torch.testing.assert_close(found["half"]["gramian"], expected["gramian"], rtol=0.02, atol=0.02)
        assert not torch.equal(found["half"]["gramian"], found["gramian"])


def test_the_state_is_that_of_one_process(ranks, expected):
    state = ranks[0]["state"]
    assert {name: tuple(shape) for name, shape in state["shapes"].items()} == expected["shapes"]
    for key in ("rows", "previous"):
        for name, rows in expected["state"][key].items():
            torch.testing.assert_close(state[key][name], rows, rtol=1e-6, atol=1e-7)
    assert set(ranks[1]["state"]["rows"].values()) == {None}
    assert ranks[0]["closed state"] is None


def test_the_state_of_one_process_is_taken_over(ranks, expected):
    for found in ranks:
        for name in ("gramian", "cross"):
            torch.testing.assert_close(found["taken"][name], expected[name], rtol=1e-6, atol=1e-8)


def test_the_state_of_another_model_is_refused(ranks):
    for found in ranks:
        assert "parameters that differ: 1, first 2.bias (7,), here" in found["other model"]


def test_a_whole_model_is_refused():
    with pytest.raises(ValueError, match=r"4 of 4 are not, first 0.weight. .*use GradientConductor"):
        Parts(make_network())


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="0 of 0 are not"):
        Parts(nn.Identity())
