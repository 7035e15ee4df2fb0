import io
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bertswin_ext.optimizers import LionLARS, lion_lars

SHAPES = [(4, 3), (5,), (), (2, 3, 2)]


def random_parameters(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def set_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def run(optimizer, parameters, steps, scheduler=None):
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def values(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def scheduled(seed=0):
    """Parameters, optimizer, and warm-up with a cosine after it."""
    parameters = random_parameters(seed)
    optimizer = LionLARS(parameters, lr=0.01, weight_decay=0.1)
    parts = [LinearLR(optimizer, 1e-2, total_iters=3), CosineAnnealingLR(optimizer, 5, eta_min=0.001)]
    return parameters, optimizer, SequentialLR(optimizer, parts, milestones=[3])


def by_hand(parameters, steps, lr, momentum, clip, decay):
    """The published steps 4 and 5, tensor by tensor."""
    parameters, momenta = values(parameters), [torch.zeros_like(p) for p in parameters]
    for t, step in enumerate(steps, start=1):
        set_gradients(shadows := [nn.Parameter(p) for p in parameters], step)
        for n, shadow in enumerate(shadows):
            momenta[n] = momentum * momenta[n] + (1 - momentum) * shadow.grad
            corrected = momenta[n] / (1 - momentum**t)
            lengths = float(parameters[n].norm()), float(corrected.norm())
            ratio = min(lengths[0] / lengths[1], clip) if min(lengths) > 1e-8 else 1.0
            parameters[n] = parameters[n] * (1 - lr * decay) - lr * ratio * corrected.sign()
    return parameters


def test_first_step_by_hand():
    weight = nn.Parameter(torch.tensor([3.0, -4.0]))
    weight.grad = torch.tensor([0.6, 0.8])
    LionLARS([weight], lr=0.01).step()
    # the corrected momentum is the gradient, of length 1; the weight's length is 5
    assert weight.tolist() == pytest.approx([2.95, -4.05])


def test_second_step_by_hand():
    weight = nn.Parameter(torch.tensor([3.0, -4.0]))
    optimizer = LionLARS([weight], lr=0.0, momentum=0.5)
    for gradient in ([2.0, 0.0], [-1.0, 0.5]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.01
    # momentum (1, 0), then (0, 0.25), corrected by 1 - 0.5^2 to (0, 1/3): ratio 15, clipped to 10
    assert optimizer.state[weight]["momentum_buffer"].tolist() == [0.0, 0.25]
    assert weight.tolist() == pytest.approx([3.0, -4.1])


@pytest.mark.parametrize(("clip", "decay"), [(10.0, 0.0), (1.5, 0.0), (10.0, 0.2)])
def test_equals_a_loop_over_tensors(clip, decay):
    parameters = random_parameters()
    expected = by_hand(parameters, range(20), lr=0.01, momentum=0.9, clip=clip, decay=decay)
    run(LionLARS(parameters, lr=0.01, trust_clip=clip, weight_decay=decay), parameters, range(20))
    for found, value in zip(values(parameters), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("at_once", [1, 5, 12, 2**17])
def test_pieces_move_as_the_whole(at_once, monkeypatch):
    parameters, expected = random_parameters(), random_parameters()
    run(LionLARS(expected, lr=0.01, weight_decay=0.1), expected, range(3))
    monkeypatch.setattr(lion_lars, "_AT_ONCE", {"cpu": at_once})
    run(LionLARS(parameters, lr=0.01, weight_decay=0.1), parameters, range(3))
    assert all(torch.equal(a, b) for a, b in zip(parameters, expected, strict=True))


def test_a_tensor_with_other_strides_moves_as_the_rest(monkeypatch):
    monkeypatch.setattr(lion_lars, "_AT_ONCE", {"cpu": 8})
    straight = random_parameters()[3]
    turned = nn.Parameter(straight.detach().permute(2, 0, 1).contiguous().permute(1, 2, 0))
    for parameter in (straight, turned):
        set_gradients([parameter], 0)
        LionLARS([parameter], lr=0.01).step()
    assert not turned.is_contiguous()
    torch.testing.assert_close(turned, straight)


class NewMemory(TorchDispatchMode):
    """Numbers that the results of each operation have in memory of their own."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        numbers = sum(t.numel() for t in made if t.untyped_storage().data_ptr() not in given)
        self.most = max(self.most, numbers)
        return result


@pytest.mark.parametrize("shapes", [[(1000,)], [(90,)] * 11, [(7,), (300, 3), (50,)]], ids=str)
def test_a_step_needs_memory_for_one_bucket_of_signs(shapes, monkeypatch):
    monkeypatch.setattr(lion_lars, "_AT_ONCE", {"cpu": 100})
    parameters = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = LionLARS(parameters)
    run(optimizer, parameters, [0])
    set_gradients(parameters, 1)
    with NewMemory() as memory:
        optimizer.step()
    assert 50 <= memory.most <= 100


@pytest.mark.parametrize(
    ("value", "gradient", "moved"),
    [
        ([0.0, 0.0], [1.0, -2.0], [-0.01, 0.01]),
        ([3.0, 4.0], [0.0, 0.0], [3.0, 4.0]),
        ([3.0, 4.0], [1e-9, 0.0], [2.99, 4.0]),
        ([0.0], [0.0], [0.0]),
    ],
    ids=["zero parameter", "zero gradient", "hardly a gradient", "both"],
)
def test_without_a_norm_there_is_no_scale(value, gradient, moved):
    weight = nn.Parameter(torch.tensor(value))
    weight.grad = torch.tensor(gradient)
    LionLARS([weight], lr=0.01).step()
    assert weight.tolist() == pytest.approx(moved)


def test_the_trust_ratio_is_clipped():
    weight = nn.Parameter(torch.tensor([300.0, 400.0]))
    weight.grad = torch.tensor([0.6, -0.8])
    LionLARS([weight], lr=1.0, trust_clip=7.0).step()
    assert weight.tolist() == pytest.approx([293.0, 407.0])


def test_weight_decay_is_decoupled():
    weight = nn.Parameter(torch.tensor([3.0, -4.0]))
    weight.grad = torch.zeros(2)
    LionLARS([weight], lr=0.1, weight_decay=0.5).step()
    assert weight.tolist() == pytest.approx([3.0 * 0.95, -4.0 * 0.95])


def test_groups_have_their_own_numbers():
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    for parameter in (first, second):
        parameter.grad = torch.ones(1)
    LionLARS([{"params": [first], "lr": 0.5}, {"params": [second]}], lr=0.1).step()
    assert (first.item(), second.item()) == pytest.approx((-0.5, -0.1))


def test_named_parameters_are_accepted():
    model = nn.Linear(2, 1)
    optimizer = LionLARS(model.named_parameters(), lr=0.1)
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 2)).sum().backward()
    before = values(model.parameters())
    optimizer.step()
    assert not torch.equal(model.weight, before[0])


def test_parameters_without_a_gradient_are_left_alone():
    parameters = random_parameters()
    set_gradients(parameters, 0)
    parameters[1].grad = None
    before = values(parameters)
    optimizer = LionLARS(parameters, lr=0.1)
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(parameters, before, strict=True)] == [False, True, False, False]
    assert parameters[1] not in optimizer.state


def test_a_late_parameter_has_its_own_correction():
    parameters = random_parameters()
    late = random_parameters()
    optimizer = LionLARS(parameters, lr=0.01)
    for step in range(3):
        set_gradients(parameters, step)
        if step < 2:
            parameters[0].grad = None
        optimizer.step()
    set_gradients(late, 2)
    LionLARS(late, lr=0.01).step()
    torch.testing.assert_close(parameters[0], late[0])


def test_nothing_to_step_with():
    parameters = random_parameters()
    before = values(parameters)
    assert LionLARS(parameters).step() is None
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


def test_torch_schedulers_drive_it():
    parameters, optimizer, scheduler = scheduled()
    found = []
    for step in range(8):
        found.append(optimizer.param_groups[0]["lr"])
        run(optimizer, parameters, [step], scheduler)
    warm_up = [0.01 * (0.01 + 0.99 * n / 3) for n in range(3)]
    cosine = [0.001 + 0.009 * (1 + math.cos(math.pi * n / 5)) / 2 for n in range(5)]
    assert found == pytest.approx(warm_up + cosine)


def test_a_state_continues_bit_for_bit():
    parameters, optimizer, scheduler = scheduled()
    run(optimizer, parameters, range(4), scheduler)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    others, other, other_scheduler = scheduled(seed=1)
    with torch.no_grad():
        for target, source in zip(others, parameters, strict=True):
            target.copy_(source)
    state = torch.load(file, weights_only=True)
    other.load_state_dict(state["optimizer"])
    other_scheduler.load_state_dict(state["scheduler"])
    run(optimizer, parameters, range(4, 8), scheduler)
    run(other, others, range(4, 8), other_scheduler)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_a_closure_computes_the_loss_again():
    weight = nn.Parameter(torch.tensor([2.0]))
    optimizer = LionLARS([weight], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert weight.item() == pytest.approx(2.0 - 0.1 * 0.5)


def test_mixed_types_in_one_group():
    double, half = nn.Parameter(torch.ones(2, dtype=torch.float64)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    for parameter in (double, half):
        parameter.grad = torch.ones_like(parameter)
    LionLARS([double, half], lr=0.25).step()
    assert double.tolist() == half.tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr": -1.0}, r"`lr` must not be negative, got -1\.0\."),
        ({"lr": math.nan}, r"`lr` must not be negative, got nan\."),
        ({"momentum": 1.0}, r"`momentum` must be at least 0 and below 1, got 1\.0\. The paper's is 0\.9\."),
        ({"momentum": -0.1}, r"`momentum` .* got -0\.1"),
        ({"trust_clip": 0.0}, r"`trust_clip` must be positive, got 0\.0\. The paper's is 10\."),
        ({"weight_decay": -0.1}, r"`weight_decay` must not be negative, got -0\.1\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        LionLARS(random_parameters(), **kwargs)
    with pytest.raises(ValueError, match=message):
        LionLARS([{"params": random_parameters(), **kwargs}])


def test_sparse_gradients():
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"does not take sparse gradients\. Use an embedding with `sparse=False`\."):
        LionLARS(embedding.parameters()).step()


def test_a_group_that_comes_later_is_checked_too():
    optimizer = LionLARS([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"`trust_clip` must be positive, got 0\. The paper's is 10\."):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "trust_clip": 0})


def test_a_sparse_gradient_leaves_no_trace():
    embedding = nn.Embedding(4, 2, sparse=True)
    optimizer = LionLARS(embedding.parameters(), lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert not optimizer.state
