import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils._python_dispatch import TorchDispatchMode

from bertswin_ext.geometry import moved
from bertswin_ext.transforms.coarse_volume import coarse_volume
from bertswin_ext.voxels import VOXELS


def turned(degrees, spacing):
    """Affine of a grid that is turned about two axes."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    lean = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    affine[:3, :3] = turn @ lean @ np.diag(spacing)
    affine[:3, 3] = (-40.0, 12.0, 300.0)
    return affine


def blob(shape, affine, place, width_mm=8.0):
    """A Gaussian bump in air about a point of the world."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(moved(affine, index) - place, axis=-1)
    hu = -1000.0 + 2000.0 * np.exp(-0.5 * (distance / width_mm) ** 2)
    return MetaTensor(torch.from_numpy(hu[None]).float(), affine=torch.from_numpy(affine))


@pytest.mark.parametrize("degrees", [0.0, 9.0, -20.0])
@pytest.mark.parametrize("spacing", [(0.7, 1.1, 2.3), (5.0, 1.0, 1.0)])
def test_what_lies_at_a_place_in_the_world_stays_there(degrees, spacing):
    shape = tuple(int(90 / mm) for mm in spacing)
    affine = turned(degrees, spacing)
    place = moved(affine, np.array(shape) * 0.45)
    coarse = coarse_volume(blob(shape, affine, place), 4.0)
    weight = coarse[0].as_tensor().double().numpy() + 1000.0
    weight[weight < 300.0] = 0.0
    index = [np.average(axis, weights=weight) for axis in np.meshgrid(*map(np.arange, weight.shape), indexing="ij")]
    np.testing.assert_allclose(moved(coarse.affine.numpy(), index), place, atol=0.6)


def test_the_grid_is_upright_and_holds_the_whole_volume():
    affine = turned(15.0, (1.0, 1.0, 1.0))
    coarse = coarse_volume(MetaTensor(torch.zeros(1, 30, 40, 20), affine=torch.from_numpy(affine)), 4.0)
    np.testing.assert_allclose(coarse.affine.numpy()[:3, :3], np.diag([4.0] * 3))
    corners = moved(affine, [[i, j, k] for i in (0, 29) for j in (0, 39) for k in (0, 19)])
    index = moved(np.linalg.inv(coarse.affine.numpy()), corners)
    assert (index > -0.5).all()
    assert (index < np.array(coarse.shape[1:]) - 0.5).all()
    assert float(coarse.min()) == VOXELS.min_hu  # around a tilted volume is air


def test_means_keep_the_mean():
    scan = torch.randn(1, 64, 64, 64) * 100
    coarse = coarse_volume(MetaTensor(scan, affine=torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0]))), 4.0)
    assert coarse.shape == (1, 8, 8, 8)
    assert float(coarse.mean()) == pytest.approx(float(scan.mean()), abs=0.1)


def test_metal_does_not_outshine_its_surroundings_nor_padding_darken_them():
    scan = torch.full((1, 8, 8, 8), 30000, dtype=torch.int16)
    assert float(coarse_volume(scan, 4.0).max()) == VOXELS.max_hu
    assert float(coarse_volume(-scan, 4.0).min()) == VOXELS.min_hu
    assert int(scan[0, 0, 0, 0]) == 30000


def test_a_volume_in_any_order_of_memory_is_read():
    scan = torch.randint(-1000, 1900, (1, 30, 20, 25), dtype=torch.int16)
    shuffled = scan.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(coarse_volume(shuffled, 4.0), coarse_volume(scan, 4.0))


def test_slabs_give_what_the_whole_gives(monkeypatch):
    scan = torch.randn(1, 31, 20, 20) * 300
    whole = coarse_volume(scan, 6.0)
    monkeypatch.setattr("bertswin_ext.transforms.coarse_volume._VOXELS_AT_ONCE", 20 * 20 * 4)
    torch.testing.assert_close(coarse_volume(scan, 6.0), whole)


def test_a_large_scan_needs_little_memory():
    """The only large thing is the scan: what is made of it at once are slabs."""
    scan = torch.zeros(1, 400, 300, 300, dtype=torch.int16)
    volume = MetaTensor(scan, affine=torch.diag(torch.tensor([0.3, 0.3, 0.3, 1.0])))
    with _Largest() as largest:
        coarse = coarse_volume(volume, 4.0)
    assert coarse.shape == (1, 30, 23, 23)
    assert 4e6 < largest.made < 20e6


class _Largest(TorchDispatchMode):
    """The most bytes that an operation of torch has made anew."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and func.is_view is False:
            given = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            if result.untyped_storage().data_ptr() not in given:
                self.made = max(self.made, result.numel() * result.element_size())
        return result


@pytest.mark.parametrize("spacing_mm", [0.0, -4.0, float("inf")])
def test_an_impossible_spacing_is_refused(spacing_mm):
    with pytest.raises(ValueError, match="`spacing_mm` must be above 0 mm"):
        coarse_volume(torch.zeros(1, 4, 4, 4), spacing_mm)


def test_two_channels_are_refused():
    with pytest.raises(ValueError, match="the volume: a volume of one channel is needed, got 2"):
        coarse_volume(torch.zeros(2, 4, 4, 4), 4.0)
