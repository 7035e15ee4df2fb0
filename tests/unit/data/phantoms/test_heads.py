import numpy as np
import pytest

from bertswin_ext.data.phantoms.heads import head_grid, make_head


@pytest.fixture(scope="module")
def head():
    return make_head(3, spacing_mm=5.0)


def index_of(head, place):
    return (np.linalg.inv(head.affine) @ [*place, 1.0])[:3]


def test_a_seed_gives_a_head_and_another_another(head):
    again, other = make_head(3, spacing_mm=5.0), make_head(4, spacing_mm=5.0)
    np.testing.assert_array_equal(again.image, head.image)
    assert again.joints == head.joints
    assert other.joints != head.joints


def test_the_right_joint_is_on_the_right_of_the_world(head):
    left, right = np.array(head.joints["left"]), np.array(head.joints["right"])
    assert right[0] == -left[0]
    assert 90 <= np.linalg.norm(right - left) <= 112


@pytest.mark.parametrize("side", ["left", "right"])
def test_there_is_bone_about_a_joint_and_air_before_the_face(head, side):
    i, j, k = (round(c) for c in index_of(head, head.joints[side]))
    assert head.image[i - 2 : i + 3, j - 2 : j + 3, k - 2 : k + 3].max() > 400
    assert head.image[i, -1, k] == -1000


def test_condyles_differ_from_side_to_side(head):
    assert not np.allclose(head.image, head.image[::-1])


def test_the_grid_holds_the_same_head_at_any_spacing():
    coarse, fine = make_head(5, spacing_mm=10.0), make_head(5, spacing_mm=5.0)
    assert coarse.joints == fine.joints
    assert head_grid(5.0)[1] == fine.image.shape
    pooled = fine.image[:, :, :62].reshape(20, 2, 26, 2, 31, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(pooled.ravel(), coarse.image[:, :, :31].ravel())[0, 1] > 0.85
