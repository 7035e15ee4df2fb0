"""What a store is prepared with."""

import json

import pytest

from bertswin_ext.data.preparation.preparation_settings import PreparationSettings


def test_the_recipe():
    """arXiv 2512.21769, section 4."""
    settings = PreparationSettings()
    assert (settings.spacing_mm, settings.roi_size) == (0.2, 400)
    assert (settings.mandible, settings.skull) == ((1,), (2,))


def test_as_json():
    settings = PreparationSettings(mandible=(2, 4), skull=(1, 3))
    content = json.loads(json.dumps(settings.to_json()))
    assert content["mandible"] == [2, 4]
    assert PreparationSettings(**{**content, "mandible": (2, 4), "skull": (1, 3)}) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing_mm": 0}, "`spacing_mm` must lie between 0.01 and 10, got 0"),
        ({"spacing_mm": float("nan")}, "`spacing_mm` must lie between 0.01 and 10, got nan"),
        ({"roi_size": 8}, "`roi_size` must be at least 16 voxels, got 8"),
        ({"intensity": "minmax"}, "`intensity` must be one of auto, hu, percentile, got 'minmax'"),
        ({"fov_radius_mm": -1.0}, "`fov_radius_mm` must be above 0, got -1"),
        ({"mandible": (1, 2)}, r"`mandible` and `skull` must not share label values, both have \[2\]"),
    ],
)
def test_messages(arguments, message):
    with pytest.raises(ValueError, match=message):
        PreparationSettings(**arguments)
