import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard

from bertswin_ext.optimizers.conductor import GradientConductor
from bertswin_ext.optimizers.lion_lars import LionLARS
from bertswin_ext.optimizers.sharded_conductor import ShardedConductor
from bertswin_ext.optimizers.sharded_lion_lars import ShardedLionLARS
from tests.ranks import found_by
from tests.unit.optimizers.small_tasks import WEIGHTS, losses_of, make_batches

pytestmark = pytest.mark.dist

KINDS = {
    "smooth": {},
    "zoned": {"resolver": "zoned", "norm_cap": 0.5, "dominance_window": 2},
    "stochastic": {"accumulation": "stochastic", "accumulation_steps": 3},
    "accumulated": {"accumulation_steps": 2},
    "single": {"loss_weights": {"far": 1.0}},
}


def make_network(width=64):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(3)]
    return nn.Sequential(nn.Linear(5, width), *blocks, nn.Linear(width, 3))


def shard(network):
    for block in network[1:-1]:
        fully_shard(block)
    return fully_shard(network)


def train(network, conductor, optimizer, share=slice(None), steps=6):
    """Losses and statistics of every step; with ``share`` this process' samples of every batch."""
    found = []
    for x in make_batches(steps * conductor.accumulation_steps):
        losses = losses_of(network, x[share])
        if conductor.accumulate({task: losses[task] for task in conductor.due_tasks}):
            if conductor.conduct():
                optimizer.step()
            last = conductor.last_step
            loss = sum(loss.detach() for loss in losses.values())
            found.append([float(loss), *last.norms.values(), *last.weights.values()])
    return torch.tensor(found)


def make_conductor(kind, network, cls):
    options = {"loss_weights": WEIGHTS, **KINDS[kind]}
    return cls(network, options.pop("loss_weights"), **options)


def sharded_run(kind, share):
    network = shard(make_network())
    conductor = make_conductor(kind, network, ShardedConductor)
    optimizer = ShardedLionLARS(network.parameters(), lr=1e-3)
    numbers = train(network, conductor, optimizer, share)
    stored = [p.to_local() for p in network.parameters()]
    stored += [state["momentum_buffer"].to_local() for state in optimizer.state.values()]
    rows = conductor.bank.bank.state_dict()
    stored += [view for key in ("rows", "previous") for view in (rows[key] or {}).values()]
    return {
        "numbers": numbers,
        "weights": {name: p.detach().full_tensor() for name, p in network.named_parameters()},
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in stored),
        "conflicts": len(conductor.last_step.conflicts),
    }


def adamw_with_clipping(network, cls, share=slice(None)):
    def clip(*_):
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)

    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    optimizer.register_step_pre_hook(clip)
    return train(network, make_conductor("smooth", network, cls), optimizer, share)


def resumed(share):
    """Six steps, and three and three with another conductor in between."""
    ends = []
    for parts in ((6,), (3, 3)):
        network = shard(make_network())
        optimizer, state = ShardedLionLARS(network.parameters(), lr=1e-3), None
        for steps in parts:
            conductor = make_conductor("smooth", network, ShardedConductor)
            if state is not None:
                conductor.load_state_dict(state)
            train(network, conductor, optimizer, share, steps)
            box = [conductor.state_dict()]
            torch.distributed.broadcast_object_list(box)
            state = box[0]
        ends.append(state["num_steps"])
    return ends


def skipped(rank, share):
    """One process has a gradient that is not finite."""
    network = shard(make_network())
    conductor = make_conductor("smooth", network, ShardedConductor)
    x = make_batches(1)[0][share] * (torch.nan if rank else 1)
    conductor.accumulate(losses_of(network, x))
    return conductor.conduct(), conductor.num_skipped


def drawn(rank):
    """A resolver that draws its weights, differently in each process."""
    generator = torch.Generator().manual_seed(rank)
    network = shard(make_network())
    conductor = ShardedConductor(network, WEIGHTS, resolver=lambda gramian: torch.rand(3, generator=generator))
    conductor.accumulate(losses_of(network, make_batches(1)[0]))
    conductor.conduct()
    return list(conductor.last_step.weights.values())


def refused(**kwargs):
    try:
        ShardedConductor(shard(make_network()), WEIGHTS, **kwargs)
    except ValueError as error:
        return str(error)
    return "no error"


def work(rank, num_ranks):
    share = slice(rank, None, num_ranks)
    if num_ranks > 2:
        return {"smooth": sharded_run("smooth", share), "single": sharded_run("single", share)}
    return {
        **{kind: sharded_run(kind, share) for kind in KINDS},
        "adamw": adamw_with_clipping(shard(make_network()), ShardedConductor, share),
        "resumed": resumed(share),
        "skipped": skipped(rank, share),
        "drawn": drawn(rank),
        "sync": refused(sync="none"),
        "negative": refused(accumulation_steps=0),
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by(2, work, tmp_path_factory.mktemp("ranks"), 2)


@pytest.fixture(scope="module")
def four_ranks(tmp_path_factory):
    return found_by(4, work, tmp_path_factory.mktemp("ranks"), 4)


def mean_loss(ranks, kind):
    """Losses are this process', all else is everybody's."""
    return torch.stack([found[kind]["numbers"] for found in ranks]).mean(0)


def assert_like_one_process(ranks, kind):
    network = make_network()
    optimizer = LionLARS(network.parameters(), lr=1e-3)
    numbers = train(network, make_conductor(kind, network, GradientConductor), optimizer)
    torch.testing.assert_close(mean_loss(ranks, kind), numbers, rtol=1e-4, atol=1e-5)
    for found in ranks:
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[kind]["weights"][name], parameter.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does(ranks, kind):
    assert_like_one_process(ranks, kind)


@pytest.mark.parametrize("kind", ["smooth", "single"])
def test_four_processes_do_what_one_does(four_ranks, kind):
    assert_like_one_process(four_ranks, kind)


def test_there_were_conflicts(ranks):
    assert ranks[0]["smooth"]["conflicts"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_processes_decide_alike(ranks, kind):
    assert torch.equal(ranks[0][kind]["numbers"][:, 1:], ranks[1][kind]["numbers"][:, 1:])


@pytest.mark.parametrize("kind", ["smooth", "single"])
@pytest.mark.parametrize("processes", ["ranks", "four_ranks"])
def test_memory_is_divided_by_the_processes(request, processes, kind):
    """Parameters, momentum, the rows, and the rows of the step before where there are several losses."""
    ranks = request.getfixturevalue(processes)
    numbers = sum(parameter.numel() for parameter in make_network().parameters())
    whole = 4 * numbers * {"smooth": 1 + 1 + 3 + 3, "single": 1 + 1 + 1}[kind]
    stored = [found[kind]["bytes"] for found in ranks]
    assert sum(stored) == whole
    assert max(stored) < 1.02 * whole / len(ranks)


def test_torch_optimizers_and_clipping_work_on_parts(ranks):
    found = torch.stack([found["adamw"] for found in ranks]).mean(0)
    torch.testing.assert_close(found, adamw_with_clipping(make_network(), GradientConductor), rtol=1e-3, atol=1e-4)


def test_the_state_is_whole(ranks):
    assert [found["resumed"] for found in ranks] == [[6, 6]] * len(ranks)


def test_a_bad_gradient_in_one_process_skips_the_step_in_all(ranks):
    assert [found["skipped"] for found in ranks] == [(False, 1)] * len(ranks)


def test_a_resolver_that_draws_decides_once_for_all(ranks):
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0)).tolist()
    for found in ranks:
        assert found["drawn"] == pytest.approx(expected)


def test_what_the_model_has_decided_is_refused(ranks):
    assert "A sharded model has decided on sync" in ranks[0]["sync"]
    assert "`accumulation_steps` must be a positive integer" in ranks[0]["negative"]


def test_a_whole_model_is_refused():
    with pytest.raises(ValueError, match="Pass what `shard_network` returned"):
        ShardedConductor(make_network(), WEIGHTS)
