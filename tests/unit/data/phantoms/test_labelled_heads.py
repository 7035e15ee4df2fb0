import numpy as np
import pytest

from bertswin_ext.data.phantoms.labelled_heads import make_labelled_head, thinned_map
from bertswin_ext.errors import VolumeError

OFFSET = np.array([12.0, -30.0, 200.0])


def jaw_map(both=True):
    """Two upright rami with a bar between them under a plate of skull, on 2 mm, away from the world's origin."""
    label = np.zeros((70, 60, 55), np.uint8)
    label[10:60, 8:50, 38:42] = 1
    label[18:52, 38:44, 8:14] = 2
    for low in (12, 50) if both else (12,):
        label[low : low + 6, 14:20, 8:34] = 2
        label[low : low + 6, 14:42, 8:14] = 2
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = OFFSET
    return label, affine


@pytest.fixture(scope="module")
def jaw():
    return thinned_map(*jaw_map())


@pytest.mark.parametrize(("finer", "step"), [(1, 1), (2, 2), (4, 3)])
def test_a_fine_map_is_thinned_and_stays_in_its_place(finer, step):
    label, affine = jaw_map()
    fine = np.kron(label, np.ones((finer,) * 3, np.uint8))
    matrix = affine @ np.diag([1 / finer, 1 / finer, 1 / finer, 1.0])
    matrix[:3, 3] += 1 / finer - 1  # the outer faces of the voxels stay where they are
    thin = thinned_map(fine, matrix)
    assert np.diag(thin.affine)[0] == pytest.approx(2.0 * step / finer)
    # what is 1 in DentalSegmentator's maps, the upper skull, is 2 in ours
    pairs = ((label == 1, affine), (thin.label == 2, thin.affine))
    places = [a[:3, :3] @ np.argwhere(mask).mean(axis=0) + a[:3, 3] for mask, a in pairs]
    np.testing.assert_allclose(places[1], places[0], atol=0.6)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_joints_are_the_maps_about_the_origin(jaw, seed):
    head = make_labelled_head(jaw, seed, spacing_mm=5.0)
    left, right = np.array(head.joints["left"]), np.array(head.joints["right"])
    np.testing.assert_allclose(right + left, 0.0, atol=1e-9)
    assert right[0] - left[0] == pytest.approx(76.0, abs=2.0)
    i, j, k = (round(c) for c in (np.linalg.inv(head.affine) @ [*right, 1.0])[:3])
    assert head.image[i - 1 : i + 2, j - 1 : j + 2, k - 2 : k + 1].max() > 300


def test_only_even_seeds_go_on_where_the_map_ends(jaw):
    whole, alone = (make_labelled_head(jaw, seed, spacing_mm=5.0).image for seed in (2, 3))
    assert (whole[:, :, -20:] > 300).any()
    assert not (alone[:, :, -20:] > -900).any()


def test_a_map_of_one_joint_is_refused():
    label, affine = jaw_map(both=False)
    label[18:52, 38:44] = 0
    with pytest.raises(VolumeError, match="it shows one condyle"):
        make_labelled_head(thinned_map(label, affine), 0, spacing_mm=8.0)
