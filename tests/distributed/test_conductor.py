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


class Messages:
    """What is sent while it is entered: lengths, and how many rows were computed by then."""

    def __init__(self, conductor):
        self.conductor, self.lengths, self.after = conductor, [], []

    def __enter__(self):
        self.original, self.accumulate, self.computed = dist.all_reduce, self.conductor.bank.accumulate, 0
        dist.all_reduce, self.conductor.bank.accumulate = self.counted, self.counting
        return self

    def __exit__(self, *_error):
        dist.all_reduce = self.original
        del self.conductor.bank.accumulate

    def counted(self, tensor, *args, **kwargs):
        self.lengths.append(tensor.numel())
        self.after.append(self.computed)
        return self.original(tensor, *args, **kwargs)

    def counting(self, *args, **kwargs):
        self.accumulate(*args, **kwargs)
        self.computed += 1


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
    with Messages(conductor) as messages:
        for number in range(50):
            step(network, conductor, optimizer, [make_batch(number, rank, place) for place in range(2)])
    size = conductor.bank.rows.numel()
    return {"start": start, "end": parameters(network), "messages": messages.lengths, "size": size}


def sent_after(rank, **kwargs):
    """How many gradients were computed when each row of a step of four micro-batches was sent."""
    network = make_network(0)
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=4, **kwargs)
    with Messages(conductor) as messages:
        step(network, conductor, LionLARS(network.parameters()), [make_batch(0, rank, place) for place in range(4)])
    return messages.after


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


def uneven(rank, most, **kwargs):
    """The first rank has some of four micro-batches, the second one less."""
    network = make_network(0)
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=4, **kwargs)
    for place in range(most - rank):
        conductor.accumulate(losses_of(network, make_batch(0, rank, place)))
    conductor.conduct()
    weights = list(conductor.last_step.weights.values())
    return {"gradient": {name: p.grad.clone() for name, p in network.named_parameters()}, "weights": weights}


def continued(rank, folder, **kwargs):
    """A step whose middle is a state of the first rank, and the same step in one go; a row is sent by then."""
    found = []
    for pieces in (False, True):
        network = make_network(0)
        conductor = GradientConductor(network, WEIGHTS, accumulation="stochastic", accumulation_steps=4, **kwargs)
        for place in range(4):
            if pieces and place == 3:
                state = conductor.state_dict()
                if rank == 0:
                    torch.save(state, f"{folder}/state.pt")
                dist.barrier()
                conductor = GradientConductor(
                    network, WEIGHTS, accumulation="stochastic", accumulation_steps=4, **kwargs
                )
                conductor.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
                found.append({"summed": state["summed"]})
            # the second loss sees the same data everywhere, for its row comes from the first rank
            x = make_batch(0, rank if place < 2 else 0, place)
            conductor.accumulate({task: losses_of(network, x)[task] for task in conductor.due_tasks})
        conductor.conduct()
        found.append({name: p.grad.clone() for name, p in network.named_parameters()})
    return found


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
        "uneven": uneven(rank, 3),
        "uneven, one complete": uneven(rank, 4),
        "uneven stochastic": uneven(rank, 3, accumulation="stochastic"),
        "sent": sent_after(rank),
        "sent stochastic": sent_after(rank, accumulation="stochastic"),
        "sent none": sent_after(rank, sync="none"),
        **{f"continued {sync}": continued(rank, folder, sync=sync) for sync in ("mean", "sum")},
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


def test_a_step_takes_one_message_for_each_row(ranks):
    for rank in ranks:
        assert rank["many"]["messages"] == [rank["many"]["size"] / 2] * 100


@pytest.mark.parametrize(("run", "after"), [("sent", [7, 8]), ("sent stochastic", [2, 4]), ("sent none", [])])
def test_a_row_is_sent_while_others_are_computed(ranks, run, after):
    for rank in ranks:
        assert rank[run] == after


@pytest.mark.parametrize("sync", ["mean", "sum"])
def test_a_state_may_have_rows_that_were_sent(ranks, sync):
    for rank in ranks:
        whole, state, pieces = rank[f"continued {sync}"]
        assert state["summed"] == [2]
        assert same(whole, pieces)
    assert same(ranks[0][f"continued {sync}"][2], ranks[1][f"continued {sync}"][2])


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


@pytest.mark.parametrize(
    ("run", "most", "kwargs"),
    [
        ("uneven", 3, {}),
        ("uneven, one complete", 4, {}),
        ("uneven stochastic", 3, {"accumulation": "stochastic"}),
    ],
)
def test_uneven_shares_are_means_of_means(ranks, run, most, kwargs):
    found = ranks[0][run]
    assert same(found["gradient"], ranks[1][run]["gradient"])
    rows = []
    for rank in range(2):
        network = make_network(0)
        conductor = GradientConductor(network, WEIGHTS, accumulation_steps=4, **kwargs)
        for place in range(most - rank):
            conductor.accumulate(losses_of(network, make_batch(0, rank, place)))
        conductor.conduct()
        rows.append(conductor.bank.state_dict()["previous"])
    weights = torch.tensor(found["weights"], dtype=torch.float32)
    for name, value in found["gradient"].items():
        mean = (rows[0][name] + rows[1][name]) / 2
        torch.testing.assert_close(value, torch.tensordot(weights, mean, dims=1), rtol=1e-5, atol=1e-7)


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
