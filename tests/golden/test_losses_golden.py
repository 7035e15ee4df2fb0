"""The losses against frozen numbers of the authors' functions."""

import numpy as np
import pytest
import torch

from bertswin_ext.losses import masked_l2, structure_terms
from tests.golden import reference

pytestmark = pytest.mark.golden

BATCH, TOKENS = 2, 12
WEIGHTS = {
    "ssim_a": (0.3, 0.2, 0.5),
    "ssim_a_only_brightness": (1, 0, 0),
    "ssim_a_only_contrast": (0, 1, 0),
    "ssim_a_only_structure": (0, 0, 1),
}
CASES = [(p, s, n) for p, s in ((16, 8), (8, 4), (8, 8)) for n in ("l2", *WEIGHTS) if (p, s, n) != (8, 8, "l2")]


def patches(patch_size):
    count = patch_size**3
    amplitude = 0.2 + reference.hash24(9100, BATCH * TOKENS).reshape(BATCH, TOKENS, 1)
    offset = reference.sym(9101, (BATCH, TOKENS, 1), 0.5)
    b, n, j = np.meshgrid(np.arange(BATCH), np.arange(TOKENS), np.arange(count), indexing="ij")
    target = 0.8 * np.sin(0.05 * j + 0.7 * n + 0.4 * b) * amplitude + offset
    target += reference.sym(9102, target.shape, 0.2)
    prediction = 0.7 * target + 0.1 + reference.sym(9103, target.shape, 0.3)
    target[0, 3] = -1.75
    return prediction.astype(np.float32), target.astype(np.float32)


def value_of(name, prediction, target, scored, patch_size, subpatch_size):
    if name == "l2":
        return masked_l2(prediction, target, scored)
    terms = structure_terms(prediction, target, scored, patch_size, subpatch_size)
    return sum(weight * term for weight, term in zip(WEIGHTS[name], terms.values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("patch_size", "subpatch_size", "name"), CASES)
def test_value_and_gradient(patch_size, subpatch_size, name, dtype):
    arrays = reference.load("losses_l2_ssim_a")[1]
    key = f"P{patch_size}_SP{subpatch_size}"
    prediction, target = patches(patch_size)
    np.testing.assert_array_equal(prediction[:, :, :8], arrays[f"{key}.pred_first8"])
    np.testing.assert_array_equal(target[:, :, :8], arrays[f"{key}.target_first8"])
    prediction = torch.from_numpy(prediction).to(dtype).requires_grad_()
    scored = torch.from_numpy(arrays[f"{key}.mask"]).bool()
    loss = value_of(name, prediction, torch.from_numpy(target).to(dtype), scored, patch_size, subpatch_size)
    assert loss.item() == pytest.approx(float(arrays[f"{key}.{name}.value"]), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, prediction)
    expected = arrays[f"{key}.{name}.grad_pred_val"]
    actual = gradient.double().flatten()[arrays[f"{key}.{name}.grad_pred_idx"]].numpy()
    largest = arrays[f"{key}.{name}.grad_pred_chk"][2]
    assert np.abs(actual - expected).max() <= (2e-6 if dtype == torch.float64 else 1e-5) * largest
    assert gradient.double().norm().item() == pytest.approx(arrays[f"{key}.{name}.grad_pred_chk"][1], rel=1e-5)


@pytest.mark.parametrize("name", ["l2", "ssim_a"])
def test_nothing_scored_is_zero(name):
    arrays = reference.load("losses_l2_ssim_a")[1]
    prediction, target = (torch.from_numpy(x) for x in patches(16))
    scored = torch.zeros(BATCH, TOKENS, dtype=torch.bool)
    assert value_of(name, prediction, target, scored, 16, 8).item() == float(arrays[f"empty_mask.{name}.value"])
