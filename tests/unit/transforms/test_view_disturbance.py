import numpy as np
import pytest
import torch

from bertswin_ext.transforms.view_disturbance import Disturbance, disturbed, draw_disturbance
from bertswin_ext.voxels import VOXELS

NONE = Disturbance(1.0, 1.0, 0.0, 0.0, 0.0, 1, 0, 0.0, 0)


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(0).uniform(-1000, 1500, (1, 12, 12, 12)).astype(np.float32))


def run(image, **changes):
    return disturbed(image, NONE._replace(**changes), np.random.RandomState(0))


def test_nothing_changes_nothing(image):
    torch.testing.assert_close(run(image), image, atol=1e-3, rtol=0)


def test_air_stays_air_when_values_are_scaled():
    image = torch.tensor([-1000.0, 0.0, 1150.0]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert run(image, scale=0.9)[0, :, 0, 0].tolist() == pytest.approx([-1000.0, -100.0, 935.0])
    assert run(image, bone_scale=0.5)[0, :, 0, 0].tolist() == pytest.approx([-1000.0, 0.0, 650.0])
    assert run(image, offset_hu=30.0)[0, :, 0, 0].tolist() == pytest.approx([-970.0, 30.0, 1180.0])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_blur_along_one_axis(image, axis):
    ramp = torch.arange(12.0) * 50
    shape = [1, 1, 1, 1]
    shape[axis + 1] = 12
    across = ramp.reshape(shape).expand(1, 12, 12, 12)
    other = (axis + 1) % 3
    assert run(image, slices=3, axis=axis).std(dim=axis + 1).mean() < 0.8 * image.std(dim=axis + 1).mean()
    torch.testing.assert_close(run(across, slices=3, axis=other), across, atol=1e-3, rtol=0)


def test_noise_and_shading_have_their_strength(image):
    flat = torch.zeros(1, 24, 24, 24)
    assert float(run(flat, noise_hu=40.0).std()) == pytest.approx(40.0, rel=0.05)
    shaded = run(flat, shading_hu=40.0)
    assert float(shaded.std()) > 5.0
    assert float((shaded[:, 1:] - shaded[:, :-1]).abs().max()) < 30.0


def test_metal_is_as_bright_as_can_be_and_the_given_image_stays(image):
    before = image.clone()
    assert int((run(image, metal=3) >= VOXELS.max_hu).sum()) >= 1
    assert torch.equal(image, before)


def test_all_is_within_the_window(image):
    rng = np.random.RandomState(3)
    for _ in range(20):
        found = disturbed(image, draw_disturbance(rng), rng)
        assert found.shape == image.shape
        assert VOXELS.min_hu <= float(found.min()) <= float(found.max()) <= VOXELS.max_hu
