"""Tissue decides where there are labels; without labels the structural loss does, and says so."""

import logging

import pytest
import torch
from torch.nn import functional as F

from bertswin_ext.losses.reconstruction import one_sample
from bertswin_ext.losses.structure import SubpatchStructureLoss
from bertswin_ext.losses.tissue import TissueWeightedLoss, bone_surface_shell
from bertswin_ext.voxels import VOXELS

AIR, SOFT, BONE = (VOXELS.normalized(hu) for hu in (-1000, 40, 1400))
TERMS = ["brightness", "contrast", "structure"]


def head(batch=1):
    """Volumes that are half soft tissue and half air with a block of bone, and their labels."""
    image = torch.full((batch, 1, 16, 16, 16), AIR)
    image[:, :, :8] = SOFT
    label = torch.zeros_like(image)
    label[:, :, 10:16, 8:16, 8:16] = 1
    image[label > 0] = BONE
    return image, label


def prediction_of(image, seed=0):
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return image + 0.5 * noise * torch.arange(1.0, len(image) + 1).reshape(-1, 1, 1, 1, 1)


def output(reconstruction, masked=None):
    everything = torch.ones(len(reconstruction), 8, dtype=torch.bool)
    return {"reconstruction": reconstruction, "masked": everything if masked is None else masked}


def shell_tokens(label):
    return F.avg_pool3d(bone_surface_shell(label).float(), 8).flatten(1) > 0.5


@pytest.mark.parametrize("size", [(24, 24, 24), (7, 3, 20)])
def test_shell_equals_repeated_steps_of_a_small_cube(size):
    label = torch.randint(0, 40, (2, 1, *size), generator=torch.Generator().manual_seed(0))
    label = torch.where(label < 38, 0, label - 37)
    label[..., 1 : size[0] // 2, :, 2:16] = 2
    bone = (label > 0).float()
    grown, shrunk = bone, bone
    for _ in range(4):
        grown = F.max_pool3d(grown, 3, 1, 1)
    for _ in range(2):
        shrunk = -F.max_pool3d(-shrunk, 3, 1, 1)
    shell = bone_surface_shell(label)
    assert shell.dtype == torch.bool
    assert torch.equal(shell, (grown > 0) & (shrunk == 0))


def test_shell_of_one_face():
    """Bone that fills a half: 4 voxels outside, 2 inside, none at the border of the volume."""
    label = torch.zeros(1, 1, 16, 8, 8)
    label[:, :, 8:] = 2
    expected = torch.zeros(16, dtype=torch.bool)
    expected[4:10] = True
    assert torch.equal(bone_surface_shell(label), expected[None, None, :, None, None].expand(1, 1, 16, 8, 8))
    assert label.unique().tolist() == [0, 2]


def test_growth_from_the_border_has_no_gap():
    label = torch.zeros(1, 1, 1, 2, 8)
    label[..., 0] = 1
    expected = torch.arange(8) <= 4
    assert torch.equal(bone_surface_shell(label), expected.expand(1, 1, 1, 2, 8))


def test_tissue_weights_select_soft_tissue_and_shell():
    image, label = head()
    prediction = prediction_of(image)
    structure = SubpatchStructureLoss(8)
    shell = shell_tokens(label)
    assert shell.any()
    expected = sum(
        weight * structure(output(prediction, selected), image)
        for weight, selected in (
            (0.3, torch.ones(1, 8, dtype=torch.bool)),
            (0.5, torch.tensor([[True] * 4 + [False] * 4])),
            (0.2, shell),
        )
    )
    actual = TissueWeightedLoss(8)(output(prediction), {"image": image, "label": label})
    torch.testing.assert_close(actual, expected)


def test_all_labelled_is_the_same_with_and_without_saying_so(caplog):
    image, label = head(2)
    prediction = output(prediction_of(image))
    silent = TissueWeightedLoss(8)(prediction, {"image": image, "label": label})
    said = TissueWeightedLoss(8)(prediction, {"image": image, "label": label, "has_label": torch.tensor([True, True])})
    assert torch.equal(silent, said)
    assert caplog.records == []


@pytest.mark.parametrize("has_label", [None, torch.tensor([False, False])], ids=["no label", "has_label False"])
def test_without_labels_it_is_the_structural_loss(has_label):
    image, label = head(2)
    prediction = output(prediction_of(image))
    target = {"image": image} if has_label is None else {"image": image, "label": label, "has_label": has_label}
    loss, structure = TissueWeightedLoss(8), SubpatchStructureLoss(8)
    assert torch.equal(loss(prediction, target), structure(prediction, image))
    assert loss.last_terms == structure.last_terms
    assert loss(prediction, target) != loss(prediction, {"image": image, "label": label})


def test_a_bare_volume_has_no_label():
    image, _ = head()
    prediction = output(prediction_of(image))
    assert torch.equal(TissueWeightedLoss(8)(prediction, image), SubpatchStructureLoss(8)(prediction, image))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
def test_a_mixed_batch_is_the_mean_of_both_weighted_by_samples(dtype):
    image, label = head(4)
    prediction = prediction_of(image)
    masked = torch.tensor([[True, True, False, True] * 2, [False, True] * 4, [True] * 8, [False, True, True, True] * 2])
    rows = torch.tensor([True, False, True, True])
    target = {"image": image, "label": label, "has_label": rows.to(dtype)}
    loss, structure = TissueWeightedLoss(8), SubpatchStructureLoss(8)
    mixed = loss.terms(output(prediction, masked), target)
    with_label = loss.terms(output(prediction[rows], masked[rows]), {"image": image[rows], "label": label[rows]})
    without = structure.terms(output(prediction[~rows], masked[~rows]), image[~rows])
    assert list(mixed) == TERMS
    for name in TERMS:
        assert with_label[name] != without[name]
        torch.testing.assert_close(mixed[name], 0.75 * with_label[name] + 0.25 * without[name])


def test_the_mean_over_samples_of_a_mixed_batch_is_that_of_its_samples():
    image, label = head(3)
    prediction = prediction_of(image)
    masked = torch.tensor([[True, True, False, True] * 2, [False, True] * 4, [True] * 8])
    target = {"image": image, "label": label, "has_label": torch.tensor([True, False, True])}
    whole = TissueWeightedLoss(8, reduction="samples").terms(output(prediction, masked), target)
    single = TissueWeightedLoss(8)
    parts = [
        single.terms(one_sample(output(prediction, masked), sample), one_sample(target, sample)) for sample in range(3)
    ]
    for name in TERMS:
        torch.testing.assert_close(whole[name], torch.stack([part[name] for part in parts]).mean())


def test_validity_holds_in_both_parts():
    image, label = head(2)
    prediction = prediction_of(image)
    valid = torch.tensor([[True, False] * 4, [False, True] * 4])
    target = {"image": image, "label": label, "has_label": torch.tensor([True, False])}
    loss = TissueWeightedLoss(8)
    torch.testing.assert_close(
        loss(output(prediction), {**target, "valid": valid}), loss(output(prediction, valid), target)
    )


def test_gradients_are_finite_and_the_label_of_an_unlabelled_sample_is_not_looked_at():
    image, label = head(2)
    target = {"image": image, "label": label, "has_label": torch.tensor([False, True])}
    prediction = prediction_of(image).requires_grad_()
    loss = TissueWeightedLoss(8)
    first = loss(output(prediction), target)
    (gradient,) = torch.autograd.grad(first, prediction)
    label = label.clone()
    label[0] = float("nan")
    assert torch.equal(loss(output(prediction), {**target, "label": label}), first)
    assert torch.isfinite(gradient).all()
    assert all(sample.abs().max() > 0 for sample in gradient)


def test_a_part_with_nothing_to_score_contributes_zero():
    image, label = head(2)
    prediction = prediction_of(image).requires_grad_()
    masked = torch.tensor([[False] * 8, [True] * 8])
    target = {"image": image, "label": label, "has_label": torch.tensor([True, False])}
    value = TissueWeightedLoss(8)(output(prediction, masked), target)
    torch.testing.assert_close(value, 0.5 * SubpatchStructureLoss(8)(output(prediction[1:], masked[1:]), image[1:]))
    (gradient,) = torch.autograd.grad(value, prediction)
    assert torch.isfinite(gradient).all()
    assert gradient[0].abs().max() == 0


def test_missing_labels_are_said_once_per_loss(caplog):
    image, label = head(3)
    target = {"image": image, "label": label, "has_label": torch.tensor([True, False, False])}
    prediction = output(prediction_of(image))
    loss = TissueWeightedLoss(8)
    for _ in range(2):
        loss(prediction, target)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("bertswin_ext.losses.tissue", logging.WARNING)
    assert record.getMessage() == (
        "2 of 3 samples of this batch have no label: they are scored by the structural loss of all masked tokens with "
        "weight 1, not weighted by tissue (0.3, 0.5, 0.2). Said once; later batches may have other numbers."
    )
    TissueWeightedLoss(8)(prediction, image)
    assert caplog.records[1].getMessage().startswith("3 of 3 samples")
    TissueWeightedLoss(8, score_visible=True)(prediction, image)
    assert "by the structural loss of all tokens with weight 1" in caplog.records[2].getMessage()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`tissue_weights` must be three: .*, got \(1, 2\)\."):
        TissueWeightedLoss(8, tissue_weights=(1, 2))
    image, label = head(2)
    target = {"image": image, "label": label, "has_label": torch.tensor([True])}
    with pytest.raises(ValueError, match=r"`has_label` must be one value per sample, \(2,\), got \(1,\)\."):
        TissueWeightedLoss(8)(output(image), target)
