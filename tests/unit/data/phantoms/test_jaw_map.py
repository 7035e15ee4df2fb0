"""Label maps of jaws: translated into our classes, or refused."""

import numpy as np
import pytest

from bertswin_ext.data.phantoms.jaw_map import DENTAL_SEGMENTATOR, MANDIBLE, SKULL, read_jaw_map
from tests.unit.data.phantoms.drawn_jaw import HALF_AFFINE, half_map


def ones(*shape):
    return np.ones(shape, np.uint8)


def test_values_of_dental_segmentator():
    assert (MANDIBLE, SKULL) == (1, 2)
    assert dict(DENTAL_SEGMENTATOR) == {
        1: (2, "bone"),
        2: (1, "bone"),
        3: (2, "tooth"),
        4: (1, "tooth"),
        5: (1, "nerve canal"),
    }


def test_a_map_is_translated():
    label = half_map()
    jaw = read_jaw_map(label, HALF_AFFINE.tolist())
    assert jaw.label.dtype == np.uint8
    assert np.array_equal(jaw.label, np.array([0, 2, 1, 2, 1, 1])[label])
    assert np.array_equal(jaw.tooth, (label == 3) | (label == 4))
    assert np.array_equal(jaw.canal, label == 5)
    assert np.array_equal(jaw.affine, HALF_AFFINE)
    assert jaw.tooth.any()
    assert jaw.canal.any()


def test_edges_of_a_voxel():
    turned = np.array([[0.0, 0.6, 0.0, 1.0], [0.5, 0.0, 0.0, 2.0], [0.0, 0.0, -0.8, 3.0], [0.0, 0.0, 0.0, 1.0]])
    assert read_jaw_map(ones(16, 17, 18), turned).spacing == pytest.approx([0.5, 0.6, 0.8])


def test_other_maps_bring_their_own_tissues():
    label = half_map()
    renamed = np.array([0, 70, -3, 71, 72, 9], np.int32)[label].astype(np.float32)
    tissues = {70: (2, "bone"), -3: [1, "bone"], 71: (2, "tooth"), 72: (1, "tooth"), 9: (1, "nerve canal")}
    one, other = read_jaw_map(label, HALF_AFFINE), read_jaw_map(renamed, HALF_AFFINE, {**tissues, 5: (1, "bone")})
    assert np.array_equal(other.label, one.label)
    assert np.array_equal(other.tooth, one.tooth)
    assert np.array_equal(other.canal, one.canal)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": ones(20, 20)}, r"`label` must have 3 axes .* got shape \(20, 20\)\. Remove channel"),
        ({"label": ones(1, 20, 20, 20)}, r"`label` must have 3 axes"),
        ({"label": ones(20, 8, 20)}, r"at least 16 voxels, got shape \(20, 8, 20\)"),
        ({"label": ones(20, 20, 20) * 0.5}, "`label` must hold whole numbers, got float64 with fractions"),
        ({"label": ones(20, 20, 20) * np.nan}, "`label` must hold whole numbers"),
        ({"label": ones(20, 20, 20) * 7}, "holds the value 7, for which `tissues` has no entry; it knows 1, 2,"),
        ({"label": ones(20, 20, 20) * 0}, "`label` must hold bone, got none"),
        ({"label": ones(20, 20, 20) * 3}, "`label` must hold bone, got none"),
        ({"affine": np.eye(3)}, r"`affine` must be an invertible \(4, 4\) matrix"),
        ({"affine": np.diag([1.0, 0.0, 1.0, 1.0])}, "`affine` must be an invertible"),
        ({"affine": np.diag([1.0, np.nan, 1.0, 1.0])}, "`affine` must be an invertible"),
        ({"tissues": {1: (3, "bone")}}, r"`tissues` must give 1 \(mandible\) or 2 \(skull\) .* got 1: \(3,"),
        ({"tissues": {1: (1, "muscle")}}, "one of bone, tooth, nerve canal for values other than 0"),
        ({"tissues": {0: (1, "bone")}}, "for values other than 0, got 0"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        read_jaw_map(**{"label": ones(20, 20, 20), "affine": np.eye(4), **arguments})
