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


def test_without_previous_rows_one_more_row_is_enough():
    model = Branches()
    bank = bank_of(model, keep_previous=False)
    pointers = set()
    for _ in range(3):
        fill(bank, model)
        bank.combine(torch.ones(2))
        storage = model.left.weight.grad.untyped_storage()
        assert storage.nbytes() == bank.rows.untyped_storage().nbytes() / 2
        pointers.add(storage.data_ptr())
    assert len(pointers) == 1
    assert bank.state_dict()["previous"] is None


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
