"""The errors of sub-patches and their gradients in closed form, against plain formulas and automatic derivatives."""

import pytest
import torch
from einops import rearrange
from torch.autograd import gradcheck

from bertswin_ext.losses import SubpatchStructureLoss
from bertswin_ext.losses.subpatch_errors import subpatch_errors


def plain_errors(p, t, size, eps=1e-8):
    """The formulas, written down for automatic derivatives."""
    pattern = "... (i a) (j b) (k c) -> ... i j k (a b c)"
    p, t = (rearrange(x, pattern, a=size, b=size, c=size) for x in (p, t))
    mean_p, mean_t = p.mean(-1, keepdim=True), t.mean(-1, keepdim=True)
    std_p, std_t = (x.var(-1, correction=0, keepdim=True).clamp(min=1e-24).sqrt() for x in (p, t))
    shapes = (p - mean_p) / (std_p + eps) - (t - mean_t) / (std_t + eps)
    return [((mean_p - mean_t) ** 2).squeeze(-1), ((std_p - std_t) ** 2).squeeze(-1), (shapes**2).mean(-1)]


def volumes(distance=1.0, dims=(2, 1, 4, 8, 12), dtype=torch.float64):
    """A target and a prediction at a distance."""
    generator = torch.Generator().manual_seed(0)
    target, noise = torch.randn((2, *dims), generator=generator, dtype=torch.float64)
    return (target + distance * noise).to(dtype).requires_grad_(), target.to(dtype)


def gradients_of(errors, x):
    """The gradient of each error, weighted unevenly over the sub-patches."""
    weights = torch.linspace(0.5, 2.0, errors[0].numel(), dtype=x.dtype).reshape(errors[0].shape)
    return [torch.autograd.grad(error, x, weights, retain_graph=True)[0] for error in errors]


@pytest.mark.parametrize("eps", [1e-8, 0.1])
@pytest.mark.parametrize(("size", "dims"), [(2, (4, 2, 6)), (4, (2, 1, 4, 8, 12)), (4, (1, 3, 4, 4, 4))])
def test_values_and_gradients_are_those_of_the_formulas(size, dims, eps):
    prediction, target = volumes(dims=dims)
    expected, found = plain_errors(prediction, target, size, eps), subpatch_errors(prediction, target, size, eps)
    torch.testing.assert_close(list(found), expected)
    torch.testing.assert_close(gradients_of(found, prediction), gradients_of(expected, prediction))


def test_the_target_has_gradients_too():
    prediction, target = volumes(dims=(4, 4, 4))
    target.requires_grad_()
    for chosen in range(3):
        assert gradcheck(lambda p, t, chosen=chosen: subpatch_errors(p, t, 2, 0.01)[chosen], (prediction, target))
    only_target = subpatch_errors(prediction.detach(), target, 2, 0.01)
    torch.testing.assert_close(
        gradients_of(only_target, target), gradients_of(plain_errors(prediction, target, 2, 0.01), target)
    )


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
def test_float32_is_as_exact_near_the_target_as_the_formulas_are(distance):
    prediction, target = volumes(distance, (2, 1, 16, 16, 16), torch.float32)
    exact = prediction.detach().double().requires_grad_()

    def all_of(errors, x):
        return [y.detach().double() for y in (*errors, *gradients_of(errors, x))]

    truth = all_of(plain_errors(exact, target.double(), 4), exact)
    plain = all_of(plain_errors(prediction, target, 4), prediction)
    found = all_of(subpatch_errors(prediction, target, 4), prediction)
    for value, other, true in zip(found, plain, truth, strict=True):
        assert (value - true).norm() <= 4 * (other - true).norm() + 2e-7 * true.norm()
    assert (found[0] - truth[0]).norm() <= 2e-7 * truth[0].norm()


@pytest.mark.parametrize("value", [-1.7128, 0.1, 1000.3])
def test_constant_subpatches_have_exact_zeros(value):
    constant = torch.full((1, 1, 8, 8, 8), value)
    prediction = constant.clone().requires_grad_()
    errors = subpatch_errors(prediction, constant, 4)
    assert all(torch.equal(error, torch.zeros(1, 1, 2, 2, 2)) for error in errors)
    assert all(torch.equal(slope, torch.zeros_like(constant)) for slope in gradients_of(errors, prediction))
    varied = torch.randn(1, 1, 8, 8, 8)
    flat_target = subpatch_errors(varied, constant, 4)[2]
    torch.testing.assert_close(flat_target, torch.ones_like(flat_target))


@pytest.mark.parametrize("deviation", [0.0, 1e-13, 1e-11, 1e-6])
def test_gradients_are_finite_at_tiny_variances(deviation):
    prediction = (deviation * torch.randn(1, 1, 8, 8, 8)).requires_grad_()
    for target in (torch.randn(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8), 1e-13 * torch.randn(1, 1, 8, 8, 8)):
        errors = subpatch_errors(prediction, target, 4)
        assert all(torch.isfinite(x).all() for x in (*errors, *gradients_of(errors, prediction)))


def test_a_graph_is_good_for_several_passes():
    prediction, target = volumes()
    errors = subpatch_errors(prediction, target, 4)
    apart = gradients_of(errors, prediction)
    assert all(torch.equal(a, b) for a, b in zip(apart, gradients_of(errors, prediction), strict=True))
    weights = torch.linspace(0.5, 2.0, errors[0].numel(), dtype=torch.float64).reshape(errors[0].shape)
    (together,) = torch.autograd.grad(sum((weights * error).sum() for error in errors), prediction)
    torch.testing.assert_close(together, sum(apart))


def test_a_prediction_of_other_strides():
    prediction, target = volumes(dims=(1, 2, 8, 8, 8))
    expected = gradients_of(subpatch_errors(prediction, target, 4), prediction)
    strided = prediction.detach().to(memory_format=torch.channels_last_3d).requires_grad_()
    torch.testing.assert_close(gradients_of(subpatch_errors(strided, target, 4), strided), expected)


def test_nothing_is_kept_but_two_volumes_and_figures_of_subpatches():
    prediction, target = volumes(dims=(1, 1, 32, 32, 32))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
        subpatch_errors(prediction, target, 8)
        assert sum(kept) < 2.02 * prediction.nbytes
        kept.clear()
        assert not any(error.requires_grad for error in subpatch_errors(prediction.detach(), target, 8))
        assert kept == []


def test_a_second_derivative_is_refused():
    prediction, target = volumes()
    error = subpatch_errors(prediction, target, 4)[2].sum()
    with pytest.raises(RuntimeError, match="have no second derivative: do without `create_graph`"):
        torch.autograd.grad(error, prediction, create_graph=True)


def test_the_loss_compiles_without_graph_breaks():
    loss = SubpatchStructureLoss(8, 4)
    image = torch.randn(1, 1, 8, 8, 8)
    prediction = (image + torch.randn_like(image)).requires_grad_()
    output = {"reconstruction": prediction, "masked": torch.ones(1, 1, dtype=torch.bool)}
    compiled = torch.compile(loss.terms, backend="aot_eager", fullgraph=True)(output, image)
    for name, expected in loss.terms(output, image).items():
        torch.testing.assert_close(compiled[name], expected)
        slopes = [torch.autograd.grad(term, prediction, retain_graph=True)[0] for term in (compiled[name], expected)]
        torch.testing.assert_close(*slopes)
