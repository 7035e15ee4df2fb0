import io

import pytest
import torch
from torch import nn

from bertswin_ext.optimizers import GradientBank, gradient_bank

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
BLOCK = 2**14


class Branches(nn.Module):
    """A trunk and two heads, so that each loss leaves a head out."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Linear(5, 7, dtype=dtype)
        self.left = nn.Linear(7, 3, dtype=dtype)
        self.right = nn.Linear(7, 1, dtype=dtype)

    def losses(self):
        hidden = self.trunk(X.to(self.trunk.weight.dtype)).tanh()
        return [self.left(hidden).square().mean(), (self.right(hidden) - 1).abs().mean()]


def bank_of(model, num_tasks=2, **kwargs):
    return GradientBank({name: p for name, p in model.named_parameters() if p.requires_grad}, num_tasks, **kwargs)


def fill(bank, model):
    for task, loss in enumerate(model.losses()):
        bank.accumulate(task, loss, 1.0, retain_graph=task == 0)


def rows_of(bank):
    """Pending rows by parameter name."""
    return bank.state_dict()["rows"]


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def expected_rows(model):
    """Both gradients of every parameter, by autograd alone."""
    parameters = dict(model.named_parameters())
    by_loss = [
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, materialize_grads=True)
        for loss in model.losses()
    ]
    return {name: torch.stack(pair) for name, pair in zip(parameters, zip(*by_loss, strict=True), strict=True)}


def storages(bank):
    return {tensor.untyped_storage().data_ptr() for tensor in rows_of(bank).values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_the_gradients_of_autograd(dtype):
    model = Branches(dtype)
    bank = bank_of(model)
    fill(bank, model)
    for name, row in expected_rows(model).items():
        assert torch.equal(rows_of(bank)[name], row), name


def test_a_parameter_that_a_loss_does_not_reach_gets_zeros():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    assert not rows_of(bank)["left.weight"][1].any()
    assert not rows_of(bank)["right.weight"][0].any()


def test_gradients_add_up_with_their_factors():
    model = Branches()
    bank = bank_of(model)
    for factor in (0.5, 0.25):
        bank.accumulate(1, model.losses()[1], factor)
    torch.testing.assert_close(rows_of(bank)["trunk.weight"][1], 0.75 * expected_rows(model)["trunk.weight"][1])


def test_nothing_is_left_in_grad_between_batches():
    model = Branches()
    fill(bank_of(model), model)
    assert all(p.grad is None for p in model.parameters())


def test_a_frozen_parameter_has_no_column():
    model = Branches()
    model.trunk.requires_grad_(False)
    bank = bank_of(model)
    fill(bank, model)
    bank.combine(torch.ones(2))
    assert [name for name in rows_of(bank) if name.startswith("trunk")] == []
    assert model.trunk.weight.grad is None
    assert model.left.weight.grad is not None


def test_a_parameter_may_be_frozen_later():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    model.trunk.requires_grad_(False)
    fill(bank, model)
    bank.combine(torch.ones(2))
    assert model.trunk.weight.grad is None
    assert model.left.weight.grad is not None


@pytest.mark.parametrize("keep_previous", [True, False])
def test_combine_is_the_weighted_sum(keep_previous):
    model = Branches()
    bank = bank_of(model, keep_previous=keep_previous)
    fill(bank, model)
    bank.combine(torch.tensor([0.5, -2.0]))
    for name, row in expected_rows(model).items():
        torch.testing.assert_close(gradients(model)[name], 0.5 * row[0] - 2.0 * row[1])


def test_changing_the_gradient_leaves_the_previous_rows_alone():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    gramian = bank.gramian()
    bank.combine(torch.ones(2))
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    model.left.weight.grad.fill_(torch.nan)
    fill(bank, model)
    torch.testing.assert_close(bank.cross_gramian(), gramian)


def test_discarded_rows_leave_nothing_behind():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    bank.combine(torch.ones(2))
    kept = {name: row.clone() for name, row in bank.state_dict()["previous"].items()}
    bank.accumulate(0, torch.nan * model.losses()[0], 1.0)
    model.left.weight.grad = torch.ones(3, 7)
    bank.discard()
    assert all(p.grad is None for p in model.parameters())
    fill(bank, model)
    expected = expected_rows(model)
    assert all(torch.equal(rows_of(bank)[name], expected[name]) for name in expected)
    assert all(torch.equal(bank.state_dict()["previous"][name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1,)],
        [(31,)],
        [(32,)],
        [(33,)],
        [(BLOCK,)],
        [(BLOCK + 1,)],
        [(3 * BLOCK + 5,)],
        [(5, 7), (3,), (1,), (129, 130)],
        [(), (2, 3, 5, 7)],
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14), (torch.bfloat16, 1e-5)], ids=str
)
def test_gramians_equal_float64_products(shapes, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(gradient_bank, "_BLOCKS_AT_ONCE", 2)
    monkeypatch.setattr(gradient_bank, "_LARGE", 64)
    generator = torch.Generator().manual_seed(3)
    parameters = {f"p{n}": nn.Parameter(torch.zeros(shape)) for n, shape in enumerate(shapes)}
    bank = GradientBank(parameters, 3, dtype)
    seen = []
    for _ in range(2):
        for task in range(3):
            loss = sum((p * torch.randn(p.shape, generator=generator)).sum() for p in parameters.values())
            bank.accumulate(task, loss, 1.0)
        flat = torch.cat([row.view(3, -1) for row in rows_of(bank).values()], dim=1).double()
        seen.append((flat, bank.gramian(), bank.cross_gramian()))
        bank.combine(torch.ones(3))
    (first, gramian, _), (second, _, cross) = seen
    for found, left, right in ((gramian, first, first), (cross, second, first)):
        assert found.dtype == torch.float64
        lengths = left.norm(dim=1)[:, None] * right.norm(dim=1)
        assert ((found - left @ right.T).abs() / lengths).max() < tolerance


def test_autocast_does_not_reach_the_gramian():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    outside = bank.gramian()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bank.gramian(), outside)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((torch.float32, torch.bfloat16), torch.float32),
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
    ],
)
def test_parameters_of_several_types(types, expected):
    first, second = (nn.Parameter(torch.tensor([1.0, 1 / 3], dtype=torch.float64).to(dtype)) for dtype in types)
    bank = GradientBank({"first": first, "second": second}, 2)
    assert bank.rows.dtype == expected
    for task in range(2):
        bank.accumulate(task, (first * first).sum() + (second * second).sum(), 1.0)
    bank.combine(torch.tensor([0.5, 0.5]))
    for parameter in (first, second):
        assert parameter.grad.dtype == parameter.dtype
        assert torch.equal(parameter.grad, 2 * parameter)


def test_bfloat16_rows_give_float32_gradients():
    model = Branches()
    bank = bank_of(model, dtype=torch.bfloat16)
    fill(bank, model)
    assert bank.rows.dtype == torch.bfloat16
    bank.combine(torch.ones(2))
    for name, row in expected_rows(model).items():
        found = gradients(model)[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, row.bfloat16().float().sum(dim=0))


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_sparse_gradients_become_dense_rows(dtype):
    embedding = nn.Embedding(10, 4, sparse=True)
    bank = bank_of(embedding, dtype=dtype)
    for task, index in enumerate((2, 5)):
        bank.accumulate(task, embedding(torch.tensor([index, index])).sum(), 1.0)
    bank.combine(torch.ones(2))
    assert not embedding.weight.grad.is_sparse
    assert embedding.weight.grad.sum(dim=1).nonzero().flatten().tolist() == [2, 5]
    assert embedding.weight.grad[2].tolist() == [2.0] * 4


def test_a_single_row_is_the_gradient_itself():
    model = Branches()
    bank = bank_of(model, num_tasks=1, keep_previous=False)
    bank.accumulate(0, model.losses()[0], 1.0)
    bank.combine(torch.ones(1))
    assert {p.grad.untyped_storage().data_ptr() for p in model.parameters()} == storages(bank)


@pytest.mark.parametrize("kwargs", [{"keep_previous": False}, {"previous_dtype": torch.bfloat16}], ids=str)
def test_where_rows_do_not_trade_places_the_result_lies_in_the_first(kwargs):
    model = Branches()
    bank = bank_of(model, **kwargs)
    for _ in range(3):
        fill(bank, model)
        own = storages(bank)
        bank.combine(torch.tensor([0.5, -2.0]))
        assert {p.grad.untyped_storage().data_ptr() for p in model.parameters()} == own
        for name, row in expected_rows(model).items():
            torch.testing.assert_close(gradients(model)[name], 0.5 * row[0] - 2.0 * row[1])
    assert (bank.state_dict()["previous"] is None) == (not kwargs.get("keep_previous", True))


def test_previous_rows_may_be_of_another_type():
    model = Branches()
    bank, exact = bank_of(model, previous_dtype=torch.bfloat16), bank_of(model)
    for each in (bank, exact):
        fill(each, model)
        each.combine(torch.ones(2))
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    for name, row in exact.state_dict()["previous"].items():
        assert torch.equal(bank.state_dict()["previous"][name], row.bfloat16())
    for each in (bank, exact):
        fill(each, model)
    assert torch.equal(bank.gramian(), exact.gramian())
    torch.testing.assert_close(bank.cross_gramian(), exact.cross_gramian(), rtol=1e-2, atol=1e-3)
    assert not torch.equal(bank.cross_gramian(), exact.cross_gramian())


@pytest.mark.parametrize("types", [(None, torch.bfloat16), (torch.bfloat16, None)], ids=["to half", "to single"])
def test_a_state_may_have_previous_rows_of_another_type(types):
    model = Branches()
    bank, other = (bank_of(model, previous_dtype=dtype) for dtype in types)
    fill(bank, model)
    bank.combine(torch.ones(2))
    other.load_state_dict(bank.state_dict(pending=False))
    for name, row in bank.state_dict()["previous"].items():
        assert torch.equal(other.state_dict()["previous"][name].bfloat16(), row.bfloat16())


@pytest.mark.parametrize("columns", [32, 100, 2**20])
def test_rows_are_combined_some_columns_at_a_time(columns, monkeypatch):
    monkeypatch.setattr(gradient_bank, "_COLUMNS", {"cpu": columns})
    model = Branches()
    bank = bank_of(model, previous_dtype=torch.bfloat16)
    fill(bank, model)
    bank.combine(torch.tensor([0.5, -2.0]))
    for name, row in expected_rows(model).items():
        torch.testing.assert_close(gradients(model)[name], 0.5 * row[0] - 2.0 * row[1])
        assert torch.equal(bank.state_dict()["previous"][name], row.bfloat16())


@pytest.fixture(params=[1, 2**20], ids=["all large", "all small"])
def _sizes(request, monkeypatch):
    """What counts as large."""
    monkeypatch.setattr(gradient_bank, "_LARGE", request.param)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kwargs", [{}, {"keep_previous": False}], ids=["previous", "no previous"])
def test_a_step_begins_from_nothing(dtype, kwargs):
    model = Branches()
    used, fresh = bank_of(model, dtype=dtype, **kwargs), bank_of(model, dtype=dtype, **kwargs)
    for _ in range(2):
        fill(used, model)
        used.combine(torch.ones(2))
    model.left.weight.requires_grad_(False)
    for bank in (used, fresh):
        fill(bank, model)
        fill(bank, model)
    for name, row in rows_of(fresh).items():
        assert torch.equal(rows_of(used)[name], row), name
    assert not rows_of(used)["left.weight"].any()
    assert torch.equal(used.gramian(), fresh.gramian())


@pytest.mark.usefixtures("_sizes")
def test_a_row_that_got_nothing_is_zero():
    model = Branches()
    bank = bank_of(model)
    for _ in range(2):
        fill(bank, model)
        bank.combine(torch.ones(2))
    bank.accumulate(0, model.losses()[0], 1.0)
    assert bank.row(0).any()
    assert not bank.row(1).any()
    bank.close()
    assert bank.gramian()[1].tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("_sizes")
def test_a_tied_parameter_gets_both_of_its_gradients():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    bank = bank_of(first, num_tasks=1, keep_previous=False)
    for _ in range(2):
        loss = second(first(torch.eye(3)).tanh()).square().sum()
        expected = torch.autograd.grad(loss, first.weight, retain_graph=True)[0]
        bank.accumulate(0, loss, 1.0)
        bank.combine(torch.ones(1))
        assert torch.equal(first.weight.grad, expected)


class Nested(torch.autograd.Function):
    """A sum whose backward pass begins one of its own, as checkpointing may."""

    @staticmethod
    def forward(ctx, weight):
        ctx.weight = weight
        return weight.sum()

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            (3 * ctx.weight).sum().backward()
        return gradient.expand_as(ctx.weight)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_gradient_may_come_in_two_parts(dtype):
    point = nn.Linear(4, 1, bias=False)
    bank = bank_of(point, num_tasks=1, keep_previous=False, dtype=dtype)
    for _ in range(2):
        bank.accumulate(0, Nested.apply(point.weight), 1.0)
        bank.combine(torch.ones(1))
        assert point.weight.grad.tolist() == [[4.0] * 4]


@pytest.mark.usefixtures("_sizes")
def test_a_backward_pass_that_failed_leaves_nothing_of_the_step_before():
    model = Branches()
    bank = bank_of(model, keep_previous=False)
    fill(bank, model)
    bank.combine(torch.ones(2))
    hook = model.trunk.weight.register_hook(_fail)
    with pytest.raises(RuntimeError, match="no memory"):
        bank.accumulate(0, model.losses()[0], 1.0)
    hook.remove()
    assert all(p.grad is None for p in model.parameters())
    assert not rows_of(bank)["trunk.weight"].any()
    bank.discard()
    fill(bank, model)
    assert all(torch.equal(rows_of(bank)[name], row) for name, row in expected_rows(model).items())


def _fail(_gradient):
    raise RuntimeError("no memory")


@pytest.mark.usefixtures("_sizes")
def test_no_hook_stays_behind():
    model = Branches()
    bank = bank_of(model)
    for _ in range(2):
        fill(bank, model)
        bank.combine(torch.ones(2))
    kept = {name: row.clone() for name, row in bank.state_dict()["previous"].items()}
    sum(model.losses()).backward()
    assert all(torch.equal(bank.state_dict()["previous"][name], row) for name, row in kept.items())


def test_rows_of_one_type_and_previous_ones_of_a_wider():
    model = Branches()
    bank = bank_of(model, dtype=torch.bfloat16, previous_dtype=torch.float64)
    fill(bank, model)
    gramian = bank.gramian()
    bank.combine(torch.ones(2))
    fill(bank, model)
    torch.testing.assert_close(bank.cross_gramian(), gramian, rtol=1e-6, atol=1e-7)


def test_previous_rows_that_cannot_hold_gradients():
    for name in ("dtype", "previous_dtype"):
        with pytest.raises(TypeError, match=rf"`{name}` must not be torch\.float16, .* Use torch\.bfloat16"):
            bank_of(Branches(), **{name: torch.float16})
    with pytest.raises(TypeError, match=r"`previous_dtype` must be a floating type .* got torch\.int64"):
        bank_of(Branches(), previous_dtype=torch.int64)


def test_the_result_lies_where_the_next_rows_will():
    model = Branches()
    bank = bank_of(model)
    pointers = set()
    for _ in range(4):
        fill(bank, model)
        bank.combine(torch.ones(2))
        gradient = model.left.weight.grad.untyped_storage().data_ptr()
        pointers |= {gradient} | {t.untyped_storage().data_ptr() for t in bank.state_dict()["previous"].values()}
        fill(bank, model)
        assert storages(bank) == {gradient}
        bank.discard()
    assert len(pointers) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_goes_through_a_file_by_name(dtype):
    model = Branches()
    bank = bank_of(model, dtype=dtype)
    fill(bank, model)
    bank.combine(torch.ones(2))
    fill(bank, model)
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    # the same parameters in another order
    other = GradientBank(dict(reversed(list(model.named_parameters()))), 2, dtype)
    other.load_state_dict(torch.load(file, weights_only=True))
    for part in ("rows", "previous"):
        for name, row in bank.state_dict()[part].items():
            assert torch.equal(other.state_dict()[part][name], row), (part, name)


def test_a_state_without_pending_rows_starts_a_step_anew():
    model = Branches()
    bank = bank_of(model)
    fill(bank, model)
    bank.combine(torch.ones(2))
    other = bank_of(model)
    fill(other, model)
    other.load_state_dict(bank.state_dict(pending=False))
    assert not other.rows.any()
    fill(other, model)
    torch.testing.assert_close(other.cross_gramian(), other.gramian())


@pytest.mark.parametrize(("saved", "loaded"), [(True, False), (False, True)])
def test_a_state_does_not_need_the_same_use_of_previous_rows(saved, loaded):
    model = Branches()
    bank = bank_of(model, keep_previous=saved)
    fill(bank, model)
    other = bank_of(model, keep_previous=loaded)
    fill(other, model)
    other.combine(torch.ones(2))
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.rows, bank.rows)
    assert not loaded or not other.cross_gramian().any()


def test_a_used_bank_goes_on_with_the_pending_rows_of_another():
    model = Branches()
    bank, other = bank_of(model), bank_of(model)
    for each in (bank, other):
        fill(each, model)
        each.combine(torch.ones(2))
    fill(bank, model)
    other.load_state_dict(bank.state_dict())
    fill(other, model)
    torch.testing.assert_close(other.gramian(), 4 * bank.gramian())


def test_a_state_of_another_model():
    other = nn.ModuleDict({"trunk": nn.Linear(5, 8), "left": nn.Linear(7, 3)})
    with pytest.raises(
        ValueError,
        match=r"that of another model, parameters that differ: 4, first right\.bias absent, here \(1,\); "
        r"right\.weight absent, here \(1, 7\); trunk\.bias \(8,\), here \(7,\)\. Load it into a conductor of",
    ):
        bank_of(Branches()).load_state_dict(bank_of(other).state_dict())


def test_nothing_to_train():
    with pytest.raises(ValueError, match=r"no trainable parameter\. Set `requires_grad` of what shall be trained"):
        bank_of(Branches().requires_grad_(False))


def test_several_devices():
    parameters = {"here": nn.Parameter(torch.zeros(2)), "there": nn.Parameter(torch.zeros(2, device="meta"))}
    with pytest.raises(ValueError, match=r"must be on one device, found here on cpu, there on meta\. Move the model"):
        GradientBank(parameters, 2)
