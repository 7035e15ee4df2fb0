import pytest
import torch
from einops import rearrange
from torch.autograd import gradcheck

from bertswin_ext.losses import (
    MaskedL2Loss,
    SubpatchStructureLoss,
    TissueWeightedLoss,
    masked_l2,
    one_sample,
    structure_terms,
)

ALL_MASKED = torch.ones(1, 8, dtype=torch.bool)


def output(reconstruction, masked=ALL_MASKED):
    return {"reconstruction": reconstruction, "masked": masked}


def one_token(token):
    masked = torch.zeros(1, 8, dtype=torch.bool)
    masked[0, token] = True
    return masked


LOSSES = [MaskedL2Loss(8), SubpatchStructureLoss(8, 4), TissueWeightedLoss(8, 4)]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_only_the_masked_patch_is_scored(loss):
    torch.manual_seed(0)
    image, label = torch.randn(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
    target = {"image": image, "label": label}
    prediction = torch.randn_like(image).requires_grad_()
    loss(output(prediction, one_token(5)), target).backward()
    touched = {tuple(place) for place in (prediction.grad.nonzero()[:, 2:] // 8).tolist()}
    assert touched == {(1, 0, 1)}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_perfect_prediction_and_empty_mask(loss):
    image = torch.randn(1, 1, 16, 16, 16)
    target = {"image": image, "label": torch.ones_like(image)}
    assert loss(output(image.clone()), target).item() == pytest.approx(0, abs=1e-6)
    assert loss(output(torch.zeros_like(image), ~ALL_MASKED), target).item() == 0


def test_invalid_tokens_are_not_scored_unless_asked():
    image, prediction = torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
    prediction[..., 8:] = 2.0
    valid = torch.tensor([[True, False] * 4])
    target = {"image": image, "valid": valid}
    assert MaskedL2Loss(8)(output(prediction), target).item() == 0
    assert MaskedL2Loss(8, score_invalid=True)(output(prediction), target).item() == 2.0


def test_named_terms_make_the_total():
    torch.manual_seed(0)
    image, prediction = torch.randn(2, 1, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    loss = SubpatchStructureLoss(8, 4)
    total = loss(output(prediction, ALL_MASKED.expand(2, -1)), image)
    terms = loss.terms(output(prediction, ALL_MASKED.expand(2, -1)), image)
    assert list(terms) == ["brightness", "contrast", "structure"]
    expected = 0.3 * terms["brightness"] + 0.2 * terms["contrast"] + 0.5 * terms["structure"]
    torch.testing.assert_close(total, expected)
    assert {name: term.item() for name, term in loss.last_terms.items()} == {k: v.item() for k, v in terms.items()}
    assert not any(term.requires_grad for term in loss.last_terms.values())


def test_terms_by_hand_for_one_subpatch():
    torch.manual_seed(0)
    p, t = torch.randn(8, 8, 8, dtype=torch.float64), torch.randn(8, 8, 8, dtype=torch.float64)
    terms = SubpatchStructureLoss(8).terms(output(p[None, None], torch.ones(1, 1, dtype=torch.bool)), t[None, None])
    mp, mt, sp, st = p.mean(), t.mean(), p.std(correction=0), t.std(correction=0)
    assert terms["brightness"].item() == pytest.approx(((mp - mt) ** 2).item())
    assert terms["contrast"].item() == pytest.approx(((sp - st) ** 2).item())
    structure = (((p - mp) / (sp + 1e-8) - (t - mt) / (st + 1e-8)) ** 2).mean()
    assert terms["structure"].item() == pytest.approx(structure.item())


def test_volumes_are_scored_as_their_patches_are():
    torch.manual_seed(0)
    image, prediction = torch.randn(2, 2, 3, 8, 8, 12, dtype=torch.float64)
    scored = torch.rand(2, 12) < 0.6
    pattern = "b c (gi i) (gj j) (gk k) -> b (gi gj gk) (c i j k)"
    patches = [rearrange(x, pattern, i=4, j=4, k=4) for x in (prediction, image)]
    expected = {"l2": masked_l2(*patches, scored), **structure_terms(*patches, scored, 4, 2)}
    for loss in (MaskedL2Loss(4), SubpatchStructureLoss(4, 2)):
        for name, term in loss.terms(output(prediction, scored), image).items():
            torch.testing.assert_close(term, expected[name])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_token_that_is_not_scored_may_be_anything(loss):
    image, prediction = torch.randn(2, 1, 1, 16, 16, 16)
    prediction[..., :8, :8, :8] = float("nan")
    target = {"image": image, "label": torch.ones_like(image)}
    assert torch.isfinite(loss(output(prediction, one_token(5)), target))


def test_gradients():
    torch.manual_seed(0)
    image = torch.randn(1, 2, 8, 8, 8, dtype=torch.float64)
    masked = torch.ones(1, 8, dtype=torch.bool)
    prediction = torch.randn_like(image).requires_grad_()
    for loss in (MaskedL2Loss(4), SubpatchStructureLoss(4, 2)):
        assert gradcheck(lambda x, loss=loss: loss(output(x, masked), image), prediction)


@pytest.mark.parametrize("value", [-1.75, -1.7128, 0.1])
def test_constant_subpatches_stay_finite(value):
    image = torch.full((1, 1, 16, 16, 16), value)
    prediction = torch.full_like(image, value).requires_grad_()
    loss = SubpatchStructureLoss(8)(output(prediction), image)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(prediction.grad).all()


def test_eps_tames_the_gradient_of_nearly_constant_subpatches():
    torch.manual_seed(0)
    image = torch.randn(1, 1, 16, 16, 16)

    def largest_gradient(eps):
        prediction = (1e-5 * torch.randn_like(image)).requires_grad_()
        SubpatchStructureLoss(8, eps=eps)(output(prediction), image).backward()
        return prediction.grad.abs().max()

    assert largest_gradient(0.01) < 0.01 * largest_gradient(1e-8)


def test_statistics_are_float32_under_autocast():
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = SubpatchStructureLoss(8)(output(image.bfloat16()), image)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(SubpatchStructureLoss(8)(output(image.bfloat16()), image).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubpatchStructureLoss(8, 3), r"`subpatch_size` must be at least 2 and divide patch_size 8, got 3\."),
        (
            lambda: SubpatchStructureLoss(8, loss_weights=(1, 2)),
            r"one weight for each of \('brightness', .*got \(1, 2\)",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_shapes():
    image = torch.zeros(1, 1, 16, 16, 16)
    with pytest.raises(ValueError, match=r"must have the target's shape \(1, 1, 16, 16, 16\), got \(1, 1, 8, 16, 16\)"):
        MaskedL2Loss(8)(output(image[:, :, :8]), image)
    with pytest.raises(ValueError, match=r"`masked` must be \(batch, tokens\) = \(1, 64\) for patch_size 4"):
        MaskedL2Loss(4)(output(image), image)
    with pytest.raises(ValueError, match=r"edges of the volume must be multiples of patch_size 6, got \(16, 16, 16\)"):
        MaskedL2Loss(6)(output(image), image)


@pytest.mark.parametrize(
    ("kind", "sizes"), [(MaskedL2Loss, (8,)), (SubpatchStructureLoss, (8, 4)), (TissueWeightedLoss, (8, 4))]
)
def test_the_mean_over_samples_does_not_depend_on_the_batches(kind, sizes):
    """Samples with different numbers of scored tokens: a batch of four, and two of two."""
    torch.manual_seed(1)
    image, prediction = torch.randn(2, 4, 1, 16, 16, 16)
    masked = torch.arange(8) < torch.tensor([[1], [8], [3], [5]])
    target = {"image": image, "valid": torch.ones(4, 8, dtype=torch.bool), "label": (image > 1).float()}
    loss = kind(*sizes, reduction="samples")
    whole = loss(output(prediction, masked), target)
    parts = []
    for part in (slice(0, 2), slice(2, 4)):
        inside = {key: value[part] for key, value in target.items()}
        parts.append(loss(output(prediction[part], masked[part]), inside))
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-6)
    by_tokens = kind(*sizes)
    singles = [by_tokens(one_sample(output(prediction, masked), n), one_sample(target, n)) for n in range(4)]
    assert whole.item() == pytest.approx(torch.stack(singles).mean().item(), rel=1e-6)
    assert whole.item() != pytest.approx(by_tokens(output(prediction, masked), target).item(), rel=1e-3)


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="`reduction` must be one of tokens, samples, got 'mean'"):
        MaskedL2Loss(8, reduction="mean")


# --- visible tokens ---

KINDS = [(MaskedL2Loss, (8,)), (SubpatchStructureLoss, (8, 4)), (TissueWeightedLoss, (8, 4))]


def scene():
    """Three volumes with half of their tokens masked, some of both kinds outside the field of view."""
    torch.manual_seed(2)
    image, prediction = torch.randn(2, 3, 1, 16, 16, 16)
    masked = torch.tensor([[True, False] * 4, [True] * 4 + [False] * 4, [False] * 7 + [True]])
    valid = torch.tensor([[True, True, False, False] * 2, [True] * 8, [True] * 6 + [False] * 2])
    return prediction, masked, {"image": image, "valid": valid, "label": (image > 0.3).float()}


@pytest.mark.parametrize("reduction", ["tokens", "samples"])
@pytest.mark.parametrize("score_invalid", [False, True])
@pytest.mark.parametrize(("kind", "sizes"), KINDS)
def test_scoring_visible_tokens_is_scoring_as_if_all_were_masked(kind, sizes, score_invalid, reduction):
    prediction, masked, target = scene()
    loss = kind(*sizes, score_invalid=score_invalid, reduction=reduction, score_visible=True)
    plain = kind(*sizes, score_invalid=score_invalid, reduction=reduction)
    value = loss(output(prediction, masked), target)
    assert torch.equal(value, plain(output(prediction, torch.ones_like(masked)), target))
    assert not torch.isclose(value, plain(output(prediction, masked), target), rtol=1e-3)


@pytest.mark.parametrize(("kind", "sizes"), KINDS)
def test_tokens_outside_the_field_of_view_stay_out_visible_or_not(kind, sizes):
    prediction, masked, target = scene()
    prediction.requires_grad_()
    kind(*sizes, score_visible=True)(output(prediction, masked), target).backward()
    tokens = rearrange(prediction.grad, "b c (gi i) (gj j) (gk k) -> b (gi gj gk) (c i j k)", i=8, j=8, k=8)
    assert torch.equal(tokens.abs().amax(dim=2) > 0, target["valid"])


def test_visible_tokens_without_validity_are_all_tokens():
    prediction, masked, target = scene()
    value = MaskedL2Loss(8, score_visible=True)(output(prediction, masked), target["image"])
    torch.testing.assert_close(value, (prediction - target["image"]).square().mean())
