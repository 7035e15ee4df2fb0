"""Scores of one case, class by class, and how empty classes count."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.evaluation.segmentation_scores import (
    EMPTY_RULE,
    SCORES,
    ClassScores,
    mean_scores,
    segmentation_scores,
)

NAMES = ["background", "mandible", "skull"]
SPACING = (0.5, 0.4, 1.0)
DIAGONAL = math.sqrt(6.0**2 + 4.8**2 + 12.0**2)


def label(**boxes):
    volume = torch.zeros(12, 12, 12, dtype=torch.uint8)
    for name, (start, stop) in boxes.items():
        volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = NAMES.index(name)
    return volume


MANDIBLE = {"mandible": ((2, 2, 2), (6, 6, 6))}
SKULL = {"skull": ((0, 0, 8), (12, 12, 12))}
BOTH = label(**MANDIBLE, **SKULL)


def test_a_cube_moved_by_one_millimetre():
    moved = label(mandible=((4, 2, 2), (8, 6, 6)), **SKULL)
    mandible, skull = segmentation_scores(moved, BOTH, SPACING, NAMES)
    assert (mandible.name, skull.name, mandible.note) == ("mandible", "skull", "")
    assert mandible.dice == pytest.approx(0.5)
    assert mandible.hd95_mm == pytest.approx(1.0)
    assert mandible.assd_mm == pytest.approx((4 * 0.4 + 12 * 0.5 + 16 * 1.0) / 56)
    assert mandible.volume_ml == pytest.approx(64 * 0.2 / 1000)
    assert (skull.dice, skull.hd95_mm, skull.assd_mm) == (1.0, 0.0, 0.0)
    assert skull.reference_ml == pytest.approx(12 * 12 * 4 * 0.2 / 1000)


def test_the_volumes_are_those_of_prediction_and_reference():
    thick = label(mandible=((2, 2, 2), (8, 6, 6)))
    mandible = segmentation_scores(thick, label(**MANDIBLE), SPACING, NAMES)[0]
    assert (mandible.volume_ml, mandible.reference_ml) == pytest.approx((96 * 0.0002, 64 * 0.0002))


def test_a_speck_does_not_count_in_the_95th_percentile():
    speck = BOTH.clone()
    speck[10, 3, 3] = 1
    mandible = segmentation_scores(speck, BOTH, SPACING, NAMES)[0]
    assert mandible.hd95_mm == 0.0
    assert mandible.assd_mm == pytest.approx(2.5 / (57 + 56))


def test_the_larger_direction_counts():
    """Half of the prediction is far from the reference, nothing of the reference is far from the prediction."""
    longer = label(mandible=((2, 2, 2), (12, 6, 6)), **SKULL)
    there = segmentation_scores(longer, BOTH, SPACING, NAMES)[0]
    back = segmentation_scores(BOTH, longer, SPACING, NAMES)[0]
    assert there.hd95_mm == back.hd95_mm == pytest.approx(3.0)  # 6 voxels of 0.5 mm


@pytest.mark.parametrize(
    ("prediction", "reference", "note"),
    [(SKULL, {**MANDIBLE, **SKULL}, "missed"), ({**MANDIBLE, **SKULL}, SKULL, "invented")],
)
def test_a_class_on_one_side_only(prediction, reference, note):
    mandible, skull = segmentation_scores(label(**prediction), label(**reference), SPACING, NAMES)
    assert mandible.dice == 0.0
    assert mandible.hd95_mm == mandible.assd_mm == pytest.approx(DIAGONAL)
    assert mandible.note == note
    assert sorted([mandible.volume_ml, mandible.reference_ml]) == [0.0, pytest.approx(0.0128)]
    assert skull.dice == 1.0
    assert note in EMPTY_RULE


def test_a_class_that_nobody_has_does_not_count():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mandible, skull = segmentation_scores(label(**SKULL), label(**SKULL), SPACING, NAMES)
    assert all(math.isnan(getattr(mandible, score)) for score in SCORES)
    assert (mandible.volume_ml, mandible.reference_ml, mandible.note) == (0.0, 0.0, "absent")
    assert mean_scores([mandible, skull]) == {"dice": 1.0, "hd95_mm": 0.0, "assd_mm": 0.0}


def test_means_over_the_classes_that_count():
    rows = [ClassScores("a", 0.5, 2.0, 1.0, 1.0, 1.0), ClassScores("b", 1.0, 0.0, 0.0, 1.0, 1.0)]
    assert mean_scores(rows) == {"dice": 0.75, "hd95_mm": 1.0, "assd_mm": 0.5}
    absent = segmentation_scores(label(), label(), SPACING, NAMES)
    assert all(math.isnan(value) for value in mean_scores(absent).values())


@pytest.mark.parametrize(
    "kind", [lambda v: v[None], lambda v: v.float(), lambda v: MetaTensor(v[None]), torch.Tensor.numpy]
)
def test_other_kinds_of_label_maps(kind):
    assert segmentation_scores(kind(BOTH), kind(BOTH), SPACING, NAMES)[1].dice == 1.0


@pytest.mark.parametrize(
    ("value", "found"),
    [(3, "found 3"), (-1, "found -1"), (0.5, r"found 0\.5"), (math.nan, "found nan"), (257, "found 257")],
)
def test_values_without_a_name(value, found):
    wrong = BOTH.float()
    wrong[0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"`prediction` must hold the whole numbers from 0 to 2, {found}"):
        segmentation_scores(wrong, BOTH, SPACING, NAMES)
    with pytest.raises(ValueError, match="`reference` must hold"):
        segmentation_scores(BOTH, wrong, SPACING, NAMES)


def test_many_wrong_values_make_a_short_message():
    with pytest.raises(ValueError, match=r"found 3, 4, 5, 6, 7\.$"):
        segmentation_scores(np.arange(64).reshape(4, 4, 4), np.zeros((4, 4, 4)), SPACING, NAMES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BOTH[:6], BOTH, SPACING, NAMES), r"on one grid, got 6 x 12 x 12 and 12 x 12 x 12 voxels\. Invert"),
        ((BOTH.expand(3, -1, -1, -1), BOTH, SPACING, NAMES), r"got shape \(3, 12, 12, 12\)\. Take the argmax"),
        ((BOTH, BOTH[0], SPACING, NAMES), r"`reference` must be a label map \(i, j, k\) or \(1, i, j, k\), got shape"),
        ((BOTH, BOTH, (1, 0, 1), NAMES), r"`spacing_mm` must be three positive numbers, got \(1, 0, 1\)"),
        ((BOTH, BOTH, (1, 1), NAMES), r"`spacing_mm` must be three positive numbers, got \(1, 1\)"),
        ((BOTH, BOTH, SPACING, ["background"]), r"at least one class, got \['background'\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        segmentation_scores(*arguments)
