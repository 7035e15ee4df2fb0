"""The conductor on two gloo processes: one decision, one message, one set of weights."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tests.warm  # noqa: F401  (its server has imported torch)
from bertswin_ext.optimizers import GradientConductor, LionLARS

pytestmark = pytest.mark.dist

WEIGHTS = {"far": 1.0, "near": 0.5}
ACCUMULATION_STEPS = 3


def make_network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def make_batch(step, rank, place):
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1000 * step + 10 * rank + place))


def losses_of(network, x):
    output = network(x)
    return {"far": (output - 2).square().mean(), "near": (output + 1).abs().mean()}


def step(network, conductor, optimizer, batches):
    for x in batches:
        conductor.accumulate(losses_of(network, x))
    if conductor.conduct():
        optimizer.step()


def parameters(network):
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def few_steps(ranks, steps_per_rank, **kwargs):
    """A handful of steps over the batches of some ranks."""
    network = make_network(0)
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=steps_per_rank * len(ranks), **kwargs)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    conflicts = 0
    for number in range(6):
        batches = [make_batch(number, rank, place) for rank in ranks for place in range(steps_per_rank)]
        step(network, conductor, optimizer, batches)
        conflicts += len(conductor.last_step.conflicts)
    return {"parameters": parameters(network), "conflicts": conflicts}


def many_steps(rank):
    """Fifty steps from other weights and with other data on each rank; also the number of messages."""
    network = make_network(rank)
    with torch.no_grad():
        network[1].running_mean.fill_(rank)
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=2, dominance_window=2)
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = LionLARS(network.parameters(), lr=0.005)
    original, messages = dist.all_reduce, []

    def counted(tensor, *args, **kwargs):
        messages.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        for number in range(50):
            step(network, conductor, optimizer, [make_batch(number, rank, place) for place in range(2)])
    finally:
        dist.all_reduce = original
    size = conductor.bank.rows.numel()
    return {"start": start, "end": parameters(network), "messages": messages, "size": size}


def bad_step(rank):
    """One rank has a gradient that is not finite in the second of three steps."""
    network = make_network(0)
    conductor, optimizer = GradientConductor(network, WEIGHTS), LionLARS(network.parameters(), lr=0.01)
    after, skipped = [], []
    for number in range(3):
        x = make_batch(number, rank, 0)
        if (rank, number) == (1, 1):
            x[0, 0] = torch.nan
        step(network, conductor, optimizer, [x])
        after.append(parameters(network))
        skipped.append(conductor.last_step.not_finite)
    return {"parameters": after, "skipped": skipped}


def gradient(rank, **kwargs):
    network = make_network(0)
    conductor = GradientConductor(network, WEIGHTS, **kwargs)
    conductor.accumulate(losses_of(network, make_batch(0, rank, 0)))
    conductor.conduct()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def uneven(rank):
    """The first rank has three micro-batches, the second two."""
    network = make_network(0)
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=4)
    for place in range(3 - rank):
        conductor.accumulate(losses_of(network, make_batch(0, rank, place)))
    conductor.conduct()
    return {name: p.grad.clone() for name, p in network.named_parameters()}


def drawn(rank):
    """A resolver that draws its weights, differently on each rank."""
    network = make_network(0)
    generator = torch.Generator().manual_seed(rank)
    conductor = GradientConductor(network, WEIGHTS, resolver=lambda gramian: torch.rand(2, generator=generator))
    conductor.accumulate(losses_of(network, make_batch(0, rank, 0)))
    conductor.conduct()
    return conductor.last_step.weights


def wrapped():
    try:
        GradientConductor(DistributedDataParallel(make_network(0)), WEIGHTS)
    except ValueError as error:
        return str(error)
    return "no error"


def made_too_early(network, conductor):
    try:
        step(network, conductor, torch.optim.SGD(network.parameters(), lr=0.1), [make_batch(0, 0, 0)])
    except ValueError as error:
        return str(error)
    return "no error"


def work(rank, folder):
    """Everything that needs two processes."""
    torch.set_num_threads(1)
    early = make_network(rank)
    early_conductor = GradientConductor(early, WEIGHTS)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = {
        "few": few_steps([rank], ACCUMULATION_STEPS),
        "few stochastic": few_steps([rank], 2, accumulation="stochastic"),
        "many": many_steps(rank),
        "bad": bad_step(rank),
        "wrapped": wrapped(),
        "early": made_too_early(early, early_conductor),
        "uneven": uneven(rank),
        "drawn": drawn(rank),
        **{sync: gradient(rank, sync=sync) for sync in ("mean", "sum", "none")},
    }
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What both ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(work, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_equal_one_with_twice_the_batches(ranks):
    expected = few_steps([0, 1], ACCUMULATION_STEPS)
    assert ranks[0]["few"]["conflicts"] == expected["conflicts"] > 0
    for name, value in expected["parameters"].items():
        torch.testing.assert_close(ranks[0]["few"]["parameters"][name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", ["few", "few stochastic"])
def test_ranks_decide_alike(ranks, run):
    first, second = (rank[run] for rank in ranks)
    assert first["conflicts"] == second["conflicts"]
    assert same(first["parameters"], second["parameters"])


def test_ranks_start_from_the_weights_of_the_first(ranks):
    first, second = (rank["many"]["start"] for rank in ranks)
    assert same(first, make_network(0).state_dict())
    assert same(first, second)


def test_ranks_stay_equal_to_the_last_bit(ranks):
    first, second = (rank["many"]["end"] for rank in ranks)
    assert same(first, second)
    assert not torch.equal(first["0.weight"], ranks[0]["many"]["start"]["0.weight"])


def test_a_step_takes_one_message(ranks):
    for rank in ranks:
        assert rank["many"]["messages"] == [rank["many"]["size"]] * 50


def test_a_bad_gradient_on_one_rank_skips_the_step_on_both(ranks):
    for rank in ranks:
        assert rank["bad"]["skipped"] == [(), ("far", "near"), ()]
        first, second, third = rank["bad"]["parameters"]
        assert same(first, second)
        assert not same(second, third)
    assert same(ranks[0]["bad"]["parameters"][2], ranks[1]["bad"]["parameters"][2])


def test_a_conductor_made_before_the_processes_met_is_refused(ranks):
    for found in ranks:
        assert "Make the conductor after `init_process_group`" in found["early"]


def test_uneven_shares_are_means_of_means(ranks):
    assert same(ranks[0]["uneven"], ranks[1]["uneven"])


def test_a_resolver_that_draws_decides_once_for_all(ranks):
    expected = torch.rand(2, generator=torch.Generator().manual_seed(0)).tolist()
    for found in ranks:
        assert list(found["drawn"].values()) == pytest.approx(expected)


def test_the_sum_is_twice_the_mean(ranks):
    for name, mean in ranks[0]["mean"].items():
        torch.testing.assert_close(ranks[0]["sum"][name], 2 * mean)


def test_without_sync_ranks_go_their_own_way(ranks):
    for rank, found in enumerate(ranks):
        for name, value in gradient(rank).items():
            torch.testing.assert_close(found["none"][name], value)
    assert not same(ranks[0]["none"], ranks[1]["none"])


def test_a_wrapped_model_is_refused(ranks):
    assert "`model` must not be wrapped, got DistributedDataParallel" in ranks[0]["wrapped"]
