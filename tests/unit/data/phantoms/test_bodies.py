import numpy as np
import pytest

from bertswin_ext.data.phantoms.bodies import make_body


@pytest.mark.parametrize("seed", range(6))
def test_a_body_has_no_joint_but_flesh_and_bone_in_air(seed):
    body = make_body(seed, spacing_mm=8.0)
    assert body.joints == {}
    assert np.isfinite(body.image).all()
    assert body.image.min() == -1000
    assert body.image.max() > 300
    assert 0.01 < np.mean((body.image > -200) & (body.image < 200)) < 0.99


def test_a_seed_gives_a_body_and_another_another():
    one, same, other = (make_body(seed, spacing_mm=8.0).image for seed in (2, 2, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
