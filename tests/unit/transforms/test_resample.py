"""Values are where they belong, on either of two ways."""

import gc
import os
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bertswin_ext.geometry import moved
from bertswin_ext.transforms import resample as module
from bertswin_ext.transforms.crop_plan import plan_crop
from bertswin_ext.transforms.resample import resample
from tests.unit.transforms.crop_worlds import indices, turn

SHAPE = (11, 13, 9)
WAYS = {"itk": module._by_itk, "torch": module._by_torch}
TILTED = plan_crop(SHAPE, np.eye(4), (8, 7, 6), (5.2, 6.1, 4.3), (12, -7, 5), 1.1, mirror=True).matrix

each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def noise(shape=SHAPE, channels=1, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 300, (channels, *shape)).astype(np.float32))


def ramps(shape=SHAPE):
    """Every voxel's index, in three channels."""
    return torch.from_numpy(indices(shape)).movedim(-1, 0).float()


def shifted(offset, signs=(1, 1, 1)):
    matrix = np.diag([*signs, 1.0])
    matrix[:3, 3] = offset
    return matrix


def trilinear(volume, place):
    """One value from first principles; edges are continued."""
    place = np.clip(place, 0, np.array(volume.shape) - 1)
    base = np.minimum(np.floor(place).astype(int), np.maximum(np.array(volume.shape) - 2, 0))
    part, value = place - base, 0.0
    for corner in product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, part, 1 - part))
        if weight > 0:
            value += weight * volume[tuple(base + corner)]
    return value


@each_way
def test_positions_come_back(way):
    found = way(ramps(), TILTED, (8, 7, 6), "bilinear", 0.0)
    expected = moved(TILTED, indices((8, 7, 6)))
    np.testing.assert_allclose(found.movedim(0, -1).numpy(), expected, atol=1e-4)


@each_way
def test_values_from_first_principles(way):
    volume, size = noise(), (12, 10, 11)
    matrix = plan_crop(SHAPE, np.eye(4), size, (5.2, 4.1, 4.3), (12, -7, 5), 0.8).matrix
    found = way(volume, matrix, size, "bilinear", -1000.0)[0].numpy()
    places = moved(matrix, indices(size))
    outside = ((places < -0.5) | (places > np.array(SHAPE) - 0.5)).any(axis=-1)
    assert 0.1 < outside.mean() < 0.9
    assert (found[outside] == -1000).all()
    picked = np.argwhere(~outside)[::7]
    expected = [trilinear(volume[0].numpy().astype(float), places[tuple(index)]) for index in picked]
    np.testing.assert_allclose(found[tuple(picked.T)], expected, atol=0.05)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_agree(mode, seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 12, 3).tolist())
    matrix = plan_crop(
        SHAPE, np.eye(4), size, rng.uniform(0, SHAPE), rng.uniform(-60, 60, 3), rng.uniform(0.5, 2)
    ).matrix
    volume = noise(channels=2, seed=seed)
    by_itk, by_torch = (way(volume, matrix, size, mode, -7.0) for way in WAYS.values())
    assert by_itk.shape == by_torch.shape == (2, *size)
    assert by_itk.dtype == by_torch.dtype == torch.float32
    torch.testing.assert_close(by_itk, by_torch, atol=0.1, rtol=0)


@each_way
@pytest.mark.parametrize("axis", range(3))
def test_the_edge_is_continued_for_half_a_voxel(way, axis):
    places = [-0.51, -0.49, -0.2, 0.0, 2.0, 2.2, 2.49, 2.51]
    expected = [9.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 9.0]
    shape = [2, 2, 2]
    shape[axis] = 3
    volume = (1 + 2 * torch.arange(3.0)).reshape([3 if n == axis else 1 for n in range(3)]).expand(shape)[None]
    for place, value in zip(places, expected, strict=True):
        offset = np.full(3, 0.3)
        offset[axis] = place
        assert way(volume, shifted(offset), (1, 1, 1), "bilinear", 9.0).item() == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
@pytest.mark.parametrize("way", ["copy", "itk", "torch"])
def test_one_lit_voxel_lands_where_it_should(way, signs):
    volume, lit = torch.zeros(1, *SHAPE), (3, 8, 5)
    volume[(0, *lit)] = 1.0
    size, target = (6, 7, 8), (4, 2, 3)
    matrix = shifted(np.array(lit) - np.array(signs) * target, signs)
    values = (resample if way == "copy" else WAYS[way])(volume, matrix, size, "bilinear", 0.0)
    assert values.shape == (1, *size)
    assert (values[0] > 1e-4).nonzero().tolist() == [list(target)]
    assert values.max() == pytest.approx(1.0, abs=1e-5)


@each_way
@pytest.mark.parametrize("axis", range(3))
def test_a_quarter_turn_swaps_axes(way, axis):
    volume, lit, target = torch.zeros(1, *SHAPE), (3, 8, 5), (2, 1, 4)
    volume[(0, *lit)] = 1.0
    matrix = np.eye(4)
    matrix[:3, :3] = turn(axis, 90.0)
    matrix[:3, 3] = np.array(lit) - matrix[:3, :3] @ target
    assert way(volume, matrix, (5, 5, 5), "nearest", 0.0)[0].nonzero().tolist() == [list(target)]


@pytest.mark.parametrize("offset", [(0, 0, 0), (3, 2, 1), (-2, -3, -1), (7, 10, 6), (40, 0, 0), (-40, 0, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_copy_is_what_interpolation_gives(offset, signs):
    start = np.array(offset) + np.where(np.array(signs) < 0, 5, 0)
    volume, size = noise(channels=2), (6, 7, 5)
    copied = resample(volume, shifted(start, signs), size, fill=-7.0)
    torch.testing.assert_close(copied, module._by_itk(volume, shifted(start, signs), size, "bilinear", -7.0))


def test_a_copy_is_exact_and_its_own():
    volume = noise()
    values = resample(volume, shifted((1, 2, 3)), (4, 4, 4))
    assert torch.equal(values, volume[:, 1:5, 2:6, 3:7])
    whole = resample(volume, np.eye(4), SHAPE)
    whole.zero_()
    assert volume.abs().min() > 0
    mirrored = resample(volume, shifted((SHAPE[0] - 1, 0, 0), (-1, 1, 1)), SHAPE)
    assert torch.equal(mirrored, volume.flip(1))


def test_a_shift_by_part_of_a_voxel_is_no_copy():
    values = resample(ramps(), shifted((1.25, 2.0, 3.0)), (4, 4, 4))
    np.testing.assert_allclose(values[:, 0, 0, 0].numpy(), (1.25, 2.0, 3.0), atol=1e-5)
    stretched = np.diag([1.0, 1.0, 1.001, 1.0])
    np.testing.assert_allclose(resample(ramps(), stretched, SHAPE)[2, 0, 0, -1].item(), 8.0, atol=1e-5)
    assert resample(ramps(), stretched, SHAPE)[2, 0, 0, 4].item() == pytest.approx(4.004, abs=1e-5)


@pytest.mark.parametrize("matrix", [TILTED, shifted((1, 2, 1))], ids=["tilted", "copied"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float16, torch.float32, torch.float64])
def test_images_become_float32_and_labels_keep_their_type(dtype, matrix):
    volume = (noise().abs() / 10).to(dtype)
    image, label = (resample(volume, matrix, (8, 7, 6), mode) for mode in ("bilinear", "nearest"))
    assert (image.dtype, label.dtype) == (torch.float32, dtype)
    assert set(label.unique().tolist()) <= set(volume.unique().tolist())
    torch.testing.assert_close(image, resample(volume.float(), matrix, (8, 7, 6)))
    torch.testing.assert_close(label.float(), resample(volume.float(), matrix, (8, 7, 6), "nearest"))


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (1, 1, 1), (1, 8, 8)])
def test_thin_volumes(shape):
    offset = (np.array(shape) - 1) / 2 + 0.1
    values = resample(ramps(shape), shifted(offset), (1, 1, 1), fill=-7.0).flatten().numpy()
    np.testing.assert_allclose(values, np.where(np.array(shape) > 1, offset, 0.0), atol=1e-5)
    beyond = resample(ramps(shape), shifted(offset + np.array([0, 0, 4.5])), (1, 1, 1), fill=-7.0)
    assert beyond.unique().tolist() == [-7.0]


@each_way
@pytest.mark.parametrize("axis", range(3))
def test_positions_in_a_long_volume_are_right_to_a_thousandth_of_a_voxel(way, axis):
    shape, size = [3, 3, 3], [1, 1, 1]
    shape[axis] = size[axis] = 1000
    matrix = plan_crop(shape, np.eye(4), size, (np.array(shape) - 1) / 2, scale=1.037).matrix
    found = way(ramps(shape), matrix, size, "bilinear", 0.0).movedim(0, -1).numpy()
    np.testing.assert_allclose(found, moved(matrix, indices(size)), atol=5e-4)


def test_by_slabs_as_at_once(monkeypatch):
    volume = noise()
    at_once = module._by_torch(volume, TILTED, (8, 7, 6), "bilinear", 0.0)
    monkeypatch.setattr(module, "_VOXELS_AT_ONCE", 3 * 7 * 6)
    assert torch.equal(module._by_torch(volume, TILTED, (8, 7, 6), "bilinear", 0.0), at_once)


def test_the_result_keeps_its_memory():
    values = resample(noise(), TILTED, (8, 7, 6))
    twin = values.clone()
    gc.collect()
    _ = [resample(noise(seed=seed), TILTED, (8, 7, 6)) for seed in range(1, 20)]
    assert torch.equal(values, twin)
    values += 1
    assert torch.equal(resample(noise(), TILTED, (8, 7, 6)), twin)


def test_strided_volumes():
    volume = noise((13, 11, 18)).transpose(1, 2)[..., ::2]
    torch.testing.assert_close(
        resample(volume, TILTED, (8, 7, 6)), resample(volume.contiguous(), TILTED, (8, 7, 6)), atol=0, rtol=0
    )


class Crops(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return resample(noise(seed=index), TILTED, (8, 7, 6)), os.getpid()


def test_in_forked_workers_after_itk_ran_with_threads_here():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here = [resample(noise(seed=index), TILTED, (8, 7, 6)) for index in range(3)]
    finally:
        torch.set_num_threads(threads)
    loader = DataLoader(Crops(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    there = list(loader)
    assert all(torch.equal(a, b) for a, (b, _) in zip(here, there, strict=True))
    assert all(pid != os.getpid() for _, pid in there)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("matrix", [TILTED, shifted((-3, 2, 1), (1, 1, 1))], ids=["tilted", "copied"])
def test_on_a_gpu_as_on_the_cpu(mode, matrix):
    volume = noise(channels=2).to(torch.int16)
    there = resample(volume.cuda(), matrix, (8, 7, 6), mode, -1000.0)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), resample(volume, matrix, (8, 7, 6), mode, -1000.0), atol=0.1, rtol=0)


def test_an_unknown_mode():
    with pytest.raises(ValueError, match=r"`mode` must be one of bilinear, nearest, got 'cubic'\."):
        resample(noise(), np.eye(4), SHAPE, "cubic")


@pytest.mark.parametrize(("dtype", "fill"), [(torch.uint8, -1000), (torch.uint8, 256), (torch.int16, 0.5)])
def test_a_fill_that_the_type_cannot_hold(dtype, fill):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"`fill` must be a value of the volume's type {name}, got {fill}\. Use 0"):
        resample(torch.zeros(1, 3, 3, 3, dtype=dtype), TILTED, (3, 3, 3), "nearest", fill)
