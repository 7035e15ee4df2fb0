"""The numbers of the paper."""

import dataclasses

import pytest

from bertswin_ext.voxels import VOXELS, VoxelContract


def test_the_papers_numbers():
    assert dataclasses.asdict(VOXELS) == {
        "spacing_mm": 0.2,
        "img_size": 224,
        "min_hu": -1011.0,
        "max_hu": 1992.0,
        "mean_hu": -21.14,
        "std_hu": 578.02,
    }
    assert VoxelContract() == VOXELS


def test_values_as_the_network_sees_them():
    assert VOXELS.normalized(-21.14) == 0.0
    assert VOXELS.normalized(-21.14 + 578.02) == pytest.approx(1.0)
    assert VOXELS.normalized(VOXELS.min_hu) == pytest.approx(-1.712501, abs=1e-6)
    assert VOXELS.normalized(VOXELS.max_hu) == pytest.approx(3.482821, abs=1e-6)


def test_the_contract_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'std_hu'"):
        VOXELS.std_hu = 1.0
