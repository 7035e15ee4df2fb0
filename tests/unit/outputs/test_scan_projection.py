"""A whole scan seen through."""

import numpy as np
import pytest

from bertswin_ext.outputs.scan_projection import projected


def scene():
    image = np.full((6, 8, 10), -1000, dtype=np.int16)
    image[1, 2, 3], image[4, 6, 8] = 3000, 500
    label = np.zeros(image.shape, dtype=np.uint8)
    label[1, 2, 3], label[1, 2, 9], label[1, 7, 3] = 2, 1, 1
    return image, label


def test_what_is_dense_is_bright_from_every_side():
    planes = projected(*scene(), (1, 1, 1)).planes
    assert [plane.axis for plane in planes] == [0, 1, 2]
    brightest = [np.unravel_index(plane.image_hu.argmax(), plane.image_hu.shape) for plane in planes]
    assert brightest == [(2, 3), (1, 3), (1, 2)]
    for plane, second in zip(planes, [(6, 8), (4, 8), (4, 6)], strict=True):
        assert plane.image_hu.min() == -850
        assert -850 < plane.image_hu[second] < plane.image_hu.max()


def test_the_first_class_is_not_hidden():
    image, label = scene()
    planes = projected(image, label, (1, 1, 1)).planes
    assert (planes[2].prediction[1, 2], planes[1].prediction[1, 3], planes[0].prediction[2, 3]) == (1, 1, 2)
    assert [int((plane.prediction > 0).sum()) for plane in planes] == [3, 2, 2]


def test_large_volumes_are_looked_at_in_steps():
    image = np.broadcast_to(np.int16(0), (600, 4, 300))
    planes = projected(image, np.broadcast_to(np.uint8(0), image.shape), (0.2, 1.0, 0.5))
    assert planes.planes[1].image_hu.shape == (200, 150)
    assert planes.spacing_mm == pytest.approx((0.6, 1.0, 1.0))
    assert planes.focus_vox == (100, 2, 75)


def test_an_even_scan_and_one_with_holes():
    image = np.zeros((4, 4, 4), dtype=np.float32)
    image[1, 1, 1] = np.nan
    planes = projected(image, image.astype(bool).astype(np.uint8) * 0, (1, 1, 1)).planes
    assert all(np.isfinite(plane.image_hu).all() for plane in planes)
    assert planes[0].image_hu[1, 1] == -850
