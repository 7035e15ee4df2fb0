import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from bertswin_ext.optimizers.lion_lars import LionLARS
from bertswin_ext.optimizers.sharded_lion_lars import ShardedLionLARS
from tests.ranks import found_by

pytestmark = pytest.mark.dist

SHAPES = [(6, 4), (5, 3), (1, 8), (1,), (7,)]
OPTIONS = {"lr": 0.05, "momentum": 0.8, "trust_clip": 3.0, "weight_decay": 0.1}
STEPS = 5


def draw(step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def groups(parameters):
    return [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.2, "weight_decay": 0.0}]


def starts():
    """One tensor has no norm, which is a case of its own."""
    return [tensor * (index != 3) for index, tensor in enumerate(draw(100))]


def gradient(step, index, tensor):
    """The last parameter has no gradient in the first two steps."""
    return None if index == 4 and step < 2 else tensor


def expected_parameters():
    parameters = [torch.nn.Parameter(tensor) for tensor in starts()]
    optimizer = LionLARS(groups(parameters), **OPTIONS)
    for step in range(STEPS):
        for index, (parameter, drawn) in enumerate(zip(parameters, draw(step), strict=True)):
            parameter.grad = gradient(step, index, drawn)
        optimizer.step()
    return [parameter.detach() for parameter in parameters], optimizer


def work(rank, num_ranks):
    mesh = init_device_mesh("cpu", (num_ranks,))

    def deal(tensor):
        return distribute_tensor(tensor, mesh, [Shard(1 if tensor.shape[0] == 1 and tensor.dim() > 1 else 0)])

    parameters = [torch.nn.Parameter(deal(tensor)) for tensor in starts()]
    optimizer = ShardedLionLARS(groups(parameters), **OPTIONS)
    for step in range(STEPS):
        for index, (parameter, drawn) in enumerate(zip(parameters, draw(step), strict=True)):
            given = gradient(step, index, drawn)
            parameter.grad = None if given is None else deal(given)
        result = optimizer.step(lambda step=step: float(step))
    momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    return {
        "parameters": [parameter.detach().full_tensor() for parameter in parameters],
        "momenta": [momentum.full_tensor() for momentum in momenta],
        "sizes": [momentum.to_local().numel() for momentum in momenta],
        "steps": [optimizer.state[parameter]["step"] for parameter in parameters],
        "result": result,
    }


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, tmp_path_factory):
    return found_by(request.param, work, tmp_path_factory.mktemp("ranks"), request.param)


def test_parts_move_as_the_whole(ranks):
    expected, optimizer = expected_parameters()
    for found in ranks:
        for part, parameter, start in zip(found["parameters"], expected, starts(), strict=True):
            torch.testing.assert_close(part, parameter, rtol=1e-6, atol=1e-6)
            assert not torch.equal(part, start)
        for momentum, state in zip(found["momenta"], optimizer.state.values(), strict=True):
            torch.testing.assert_close(momentum, state["momentum_buffer"], rtol=1e-6, atol=1e-6)
        assert found["steps"] == [5, 5, 5, 5, 3]


def test_processes_agree_to_the_last_bit(ranks):
    for found in ranks[1:]:
        assert all(map(torch.equal, found["parameters"], ranks[0]["parameters"]))


def test_momentum_is_dealt_out(ranks):
    sizes = [sum(found["sizes"][index] for found in ranks) for index in range(len(SHAPES))]
    assert sizes == [24, 15, 8, 1, 7]
    assert ranks[0]["sizes"][2] == 8 // len(ranks)


def test_a_closure_is_called_and_its_loss_returned(ranks):
    assert [found["result"] for found in ranks] == [STEPS - 1.0] * len(ranks)


def test_ordinary_parameters_are_refused():
    with pytest.raises(ValueError, match=r"dealt out over processes, 1 are not. .*use LionLARS"):
        ShardedLionLARS([torch.nn.Parameter(torch.ones(2))])
