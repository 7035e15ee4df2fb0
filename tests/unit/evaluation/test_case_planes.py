"""Which planes are cut, and where."""

import numpy as np
import pytest

from bertswin_ext.evaluation.case_planes import cut_planes, largest_error, most_anatomy

SHAPE = (8, 10, 12)


def test_the_planes_meet_in_the_focus():
    image = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3, 4, 5] = 2
    case = cut_planes(image, label, label, (0.5, 1, 2), (3, 4, 5), "a title")
    assert [plane.axis for plane in case.planes] == [0, 1, 2]
    assert np.array_equal(case.planes[0].image_hu, image[3])
    assert np.array_equal(case.planes[1].image_hu, image[:, 4])
    assert np.array_equal(case.planes[2].prediction, label[:, :, 5])
    assert [np.argwhere(plane.reference == 2).tolist() for plane in case.planes] == [[[4, 5]], [[3, 5]], [[3, 4]]]
    assert (case.focus_vox, case.spacing_mm, case.title) == ((3, 4, 5), (0.5, 1.0, 2.0), "a title")


def test_nothing_of_the_volume_is_kept():
    label = np.zeros(SHAPE, dtype=np.uint8)
    case = cut_planes(label, label, label, (1, 1, 1), (0, 0, 0))
    parts = [part for plane in case.planes for part in (plane.image_hu, plane.prediction, plane.reference)]
    assert not any(np.shares_memory(part, label) for part in parts)
    assert {part.base is None or part.base.size <= 120 for part in parts} == {True}


def test_values_beyond_what_a_scanner_gives():
    image = np.full(SHAPE, np.nan)
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = 1e6, -1e6, 12.6
    plane = cut_planes(image, np.zeros(SHAPE, dtype=np.uint8), None, (1, 1, 1), (0, 0, 0)).planes[0]
    assert plane.image_hu[0, :4].tolist() == [32767, -32768, 13, -32768]
    assert plane.reference is None


@pytest.mark.parametrize("name", ["prediction", "reference"])
def test_volumes_of_two_grids(name):
    labels = {"prediction": np.zeros(SHAPE, dtype=np.uint8), "reference": np.zeros(SHAPE, dtype=np.uint8)}
    labels[name] = labels[name][:4]
    message = rf"The {name} must be \(i, j, k\) on the grid of the image, got 4 x 10 x 12 voxels for an image of 8 x 10"
    with pytest.raises(ValueError, match=message):
        cut_planes(np.zeros(SHAPE), *labels.values(), (1, 1, 1), (0, 0, 0))


def test_the_largest_error_is_where_most_voxels_are_wrong():
    reference = np.zeros((24, 24, 24), dtype=np.uint8)
    reference[12:, :, :] = 2
    prediction = reference.copy()
    prediction[0, 0, ::7] = 1  # specks
    prediction[16:19, 4:7, 8:11] = 1  # a lump
    assert largest_error(prediction, reference, (1.0, 1.0, 1.0)) == (17, 5, 9)


def test_blocks_are_measured_in_millimetres():
    """With voxels of 4 mm a block is one voxel, with those of 1 mm the four beside each other are one error."""
    reference = np.zeros((16, 16, 16), dtype=np.uint8)
    prediction = reference.copy()
    prediction[1, 1, 1] = prediction[8:10, 8:10, 8] = 1
    assert largest_error(prediction, reference, (4.0, 4.0, 4.0)) == (1, 1, 1)
    assert largest_error(prediction, reference, (1.0, 1.0, 1.0))[2] == 8


def test_without_an_error_the_reference_is_shown():
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[5, 2:7, 9] = 1
    assert largest_error(label, label, (1, 1, 1)) == most_anatomy(label)
    assert most_anatomy(label)[::2] == (5, 9)


def test_all_classes_are_shown_rather_than_most_of_one():
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[0:6, 0, :] = 2  # large, also without the other class
    label[2:4, 5, 5] = 1
    i, _, k = most_anatomy(label)
    assert i in (2, 3)
    assert k == 5


def test_nothing_to_show():
    assert most_anatomy(np.zeros(SHAPE, dtype=np.uint8)) == (4, 5, 6)


# --- no more than what is around the labels ---


def test_a_margin_around_the_labels():
    image = np.arange(20 * 16 * 12, dtype=np.int16).reshape(20, 16, 12)
    prediction, reference = np.zeros((2, 20, 16, 12), dtype=np.uint8)
    prediction[8:10, 5, 6], reference[9:12, 5:7, 6] = 1, 2
    shown = cut_planes(image, prediction, reference, (1.0, 2.0, 1.0), (9, 6, 6), margin_mm=3.0)
    box = (slice(5, 15), slice(3, 9), slice(3, 10))
    whole = cut_planes(image[box], prediction[box], reference[box], (1.0, 2.0, 1.0), (4, 3, 3))
    assert shown.focus_vox == whole.focus_vox
    for plane, expected in zip(shown.planes, whole.planes, strict=True):
        np.testing.assert_array_equal(plane.image_hu, expected.image_hu)
        np.testing.assert_array_equal(plane.prediction, expected.prediction)
        np.testing.assert_array_equal(plane.reference, expected.reference)


def test_a_margin_without_labels_shows_everything():
    nothing = np.zeros((4, 5, 6), dtype=np.uint8)
    shown = cut_planes(nothing, nothing, None, (1.0, 1.0, 1.0), (2, 2, 2), margin_mm=1.0)
    assert [plane.image_hu.shape for plane in shown.planes] == [(5, 6), (4, 6), (4, 5)]
