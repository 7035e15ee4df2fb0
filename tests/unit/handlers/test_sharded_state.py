import io

import pytest
import torch
import torch.distributed as dist

from bertswin_ext.handlers.sharded_state import ShardedState
from bertswin_ext.optimizers.lion_lars import LionLARS
from bertswin_ext.optimizers.sharded_lion_lars import ShardedLionLARS
from tests.ranks import found_by
from tests.unit.networks.small_blocks import assert_close, losses_of, make_batch, make_blocks, shard_blocks, whole

pytestmark = pytest.mark.dist


def steps(network, optimizer, numbers):
    for number in numbers:
        optimizer.zero_grad()
        sum(losses_of(network, make_batch(number, 0)).values()).backward()
        optimizer.step()


def everywhere(state):
    """What all processes read from the file that the first one wrote."""
    file = io.BytesIO()
    torch.save(state, file)
    box = [file.getvalue()]
    dist.broadcast_object_list(box)
    return torch.load(io.BytesIO(box[0]), weights_only=True)


def make(seed, kind):
    network = shard_blocks(make_blocks(seed))
    cls = {"lion": ShardedLionLARS, "adamw": torch.optim.AdamW}[kind]
    return network, cls(network.parameters(), lr=1e-3)


def saved_and_loaded(kind):
    """The whole state after two steps, and the weights after two more with and without a stop in between."""
    network, optimizer = make(0, kind)
    steps(network, optimizer, range(2))
    state = {"model": ShardedState(network).state_dict(), "optimizer": ShardedState(optimizer).state_dict()}
    read = everywhere(state)
    steps(network, optimizer, range(2, 4))
    other, other_optimizer = make(1, kind)
    ShardedState(other).load_state_dict(read["model"])
    ShardedState(other_optimizer).load_state_dict(read["optimizer"])
    steps(other, other_optimizer, range(2, 4))
    return {"state": state, "went on": whole(network), "stopped": whole(other)}


def misfit():
    network, _ = make(0, "lion")
    state = {**everywhere(ShardedState(network).state_dict()), "token": torch.zeros(1, 1, 99)}
    try:
        ShardedState(network).load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "no error"


def work(rank):
    return {**{kind: saved_and_loaded(kind) for kind in ("lion", "adamw")}, "misfit": misfit()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by(2, work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("kind", ["lion", "adamw"])
def test_a_run_goes_on_from_its_state_bit_for_bit(ranks, kind):
    for found in ranks:
        assert_close(found[kind]["stopped"], found[kind]["went on"], rtol=0, atol=0)


def test_the_state_is_that_of_one_process(ranks):
    network = make_blocks(0)
    optimizer = LionLARS(network.parameters(), lr=1e-3)
    steps(network, optimizer, range(2))
    state = ranks[0]["lion"]["state"]
    assert_close(state["model"], network.state_dict(), rtol=1e-5, atol=1e-6)
    assert state["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    for number, expected in optimizer.state_dict()["state"].items():
        assert state["optimizer"]["state"][number]["step"] == 2
        torch.testing.assert_close(
            state["optimizer"]["state"][number]["momentum_buffer"], expected["momentum_buffer"], rtol=1e-5, atol=1e-6
        )
    # an ordinary run can go on from it
    network.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    steps(network, optimizer, range(2, 4))
    assert_close(whole(network), ranks[0]["lion"]["went on"], rtol=1e-5, atol=1e-6)


def test_other_processes_have_no_tensors_to_write(ranks):
    state = ranks[1]["lion"]["state"]
    assert state["model"]["first.weight"] is None
    assert state["model"].keys() == ranks[0]["lion"]["state"]["model"].keys()


def test_the_state_of_another_network_is_refused(ranks):
    assert "token" in ranks[1]["misfit"]


def test_other_things_are_refused():
    with pytest.raises(TypeError, match="must be a network or an optimizer, got dict"):
        ShardedState({})
