import pytest
import torch
from ignite.engine import Engine, Events
from torch.distributed.tensor import DTensor

from bertswin_ext.handlers.sharded_validation import ShardedValidationHandler
from tests.ranks import found_by
from tests.unit.networks.small_blocks import assert_close, losses_of, make_batch, make_blocks, shard_blocks, whole

pytestmark = pytest.mark.dist


def one_step(network, rank):
    sum(losses_of(network, make_batch(0, rank)).values()).backward()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter -= 0.1 * parameter.grad


def work(rank):
    plain = make_blocks(seed=rank)
    sharded = shard_blocks(plain)
    one_step(sharded, rank)

    def validate(engine, place):
        with torch.no_grad():
            return sharded(make_batch(9, place))

    evaluator = Engine(validate)
    outputs = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
    ShardedValidationHandler(sharded, plain).attach(evaluator)
    # more to do for the second process
    evaluator.run(range(1 + 2 * rank))
    dealt_out = all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
    sharded(make_batch(0, rank))
    blocks = all(isinstance(parameter, DTensor) for parameter in sharded.blocks.parameters())
    return {"outputs": outputs, "whole": whole(plain), "sharded": whole(sharded), "dealt out": (dealt_out, blocks)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by(2, work, tmp_path_factory.mktemp("ranks"))


def test_processes_validate_as_long_as_they_like(ranks):
    network = make_blocks()
    network.load_state_dict(ranks[0]["whole"])
    assert [len(found["outputs"]) for found in ranks] == [1, 3]
    for found in ranks:
        for place, output in enumerate(found["outputs"]):
            torch.testing.assert_close(output, network(make_batch(9, place)).detach())


def test_the_first_process_has_the_whole_network_afterwards(ranks):
    assert_close(ranks[0]["whole"], ranks[0]["sharded"], rtol=0, atol=0)
    assert not torch.equal(ranks[0]["whole"]["first.weight"], make_blocks().first.weight)
    assert_close(ranks[1]["whole"], whole(make_blocks(seed=1)), rtol=0, atol=0)


def test_training_goes_on_dealt_out(ranks):
    assert [found["dealt out"] for found in ranks] == [(True, True)] * 2
