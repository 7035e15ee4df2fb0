"""A token counts when the scanner saw more than 95 % of it."""

import pickle

import numpy as np
import pytest
import torch

from bertswin_ext.geometry import FieldOfView, moved
from bertswin_ext.transforms import fov as module
from bertswin_ext.transforms.crop_plan import plan_crop
from bertswin_ext.transforms.fov import TokenValidity, TokenValidityd
from tests.unit.transforms.crop_worlds import WORLDS, indices

SHAPE = (24, 20, 22)
SIZE = (16, 12, 8)
POSE = {"rotation_deg": (12.0, -9.0, 7.0), "scale": 0.93}


def plan(center=(11.5, 9.5, 10.5), affine=WORLDS["plain"], size=SIZE, file="/data/a.nii", **pose):
    return plan_crop(SHAPE, affine, size, center, file=file, **pose)


def parts(crop, patch_size, field=None):
    """Part of every token that lies in the scan, voxel by voxel."""
    grid = indices(crop.size)
    places = moved(crop.matrix, grid)
    inside = ((places >= -0.5) & (places <= np.array(crop.shape) - 0.5)).all(axis=-1)
    if field is not None:
        inside &= field.contains(moved(crop.crop_affine, grid))
    i, j, k = (n // patch_size for n in crop.size)
    tokens = inside.reshape(i, patch_size, j, patch_size, k, patch_size).transpose(0, 2, 4, 1, 3, 5)
    return tokens.reshape(i * j * k, -1).mean(axis=1)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
@pytest.mark.parametrize("min_inside", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("affine", WORLDS.values(), ids=WORLDS)
def test_as_counted_voxel_by_voxel(affine, min_inside, patch_size):
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        center = rng.uniform(0, np.array(SHAPE) - 1)
        crop = plan(center, affine, rotation_deg=rng.uniform(-30, 30, 3), scale=1.1, mirror=seed % 2 == 0)
        point = moved(affine, center + rng.uniform(-4, 4, 3))
        field = FieldOfView(tuple(point), rng.uniform(2.0, 5.0), tuple(rng.normal(size=3)))
        for known in (None, field):
            expected = parts(crop, patch_size, known) > min_inside
            if expected.any():
                found = TokenValidity(patch_size, min_inside)(crop, known)
                assert (found.dtype, found.shape) == (torch.bool, (len(expected),))
                assert np.array_equal(found.numpy(), expected)
                seen |= set(expected.tolist())
    assert seen == {True, False}


def test_the_volume_is_the_whole_one_not_the_box():
    crop = plan((7.5, 5.5, 3.5))
    assert crop.box == ((0, 0, 0), SIZE)
    assert TokenValidity(4)(crop).all()


def test_tokens_are_in_c_order():
    crop = plan((11.5, 9.5, 18.5))  # 1 of 8 voxels along k is outside
    assert TokenValidity(4, 0.8)(crop).reshape(4, 3, 2)[..., 1].sum() == 0
    assert TokenValidity(4, 0.8)(crop).reshape(4, 3, 2)[..., 0].all()
    crop = plan((17.5, 9.5, 10.5))
    assert TokenValidity(4, 0.8)(crop).reshape(4, 3, 2)[3].sum() == 0
    assert TokenValidity(4, 0.8)(crop).reshape(4, 3, 2)[:3].all()


@pytest.mark.parametrize(
    ("edge", "layers_outside", "min_inside", "valid"),
    [
        (20, 0, 0.95, True),
        (20, 1, 0.95, False),  # exactly 95 %
        (20, 1, 0.9499, True),
        (20, 2, 0.95, False),
        (17, 4, 13 / 17, False),  # exactly as much, though 13 / 17 * 17^3 is less than 13 * 17^2 in floats
        (17, 3, 13 / 17, True),
        (4, 2, 0.5, False),
        (4, 2, 0.0, True),
    ],
)
def test_strictly_more_than_the_part(edge, layers_outside, min_inside, valid):
    """Two tokens along i: the first one is inside, of the other some layers are not."""
    shape = (2 * edge - layers_outside, edge, edge)
    crop = plan_crop(shape, np.eye(4), (2 * edge, edge, edge), (edge - 0.5, (edge - 1) / 2, (edge - 1) / 2))
    assert TokenValidity(edge, min_inside)(crop).tolist() == [True, valid]


def test_what_lies_inside_is_not_counted(monkeypatch):
    def count(*_):
        raise RuntimeError("voxels were counted")

    monkeypatch.setattr(TokenValidity, "_counted", count)
    field = FieldOfView(tuple(moved(WORLDS["plain"], (11.5, 9.5, 10.5))), 8.0)
    assert TokenValidity(4)(plan(**POSE), field).all()
    with pytest.raises(RuntimeError, match="counted"):
        TokenValidity(4)(plan(**POSE), FieldOfView(field.center_mm, 3.0))


def test_in_chunks_as_at_once(monkeypatch):
    field = FieldOfView(tuple(moved(WORLDS["plain"], (13, 9, 10))), 3.0, (0.3, 0.1, 1.0))
    at_once = TokenValidity(2)(plan(**POSE), field)
    monkeypatch.setattr(module, "_VOXELS_AT_ONCE", 50)
    assert torch.equal(TokenValidity(2)(plan(**POSE), field), at_once)
    assert 0 < at_once.sum() < len(at_once)


def test_the_papers_size():
    """A crop of 224 at the rim of a field of view of 88 mm: the middle of its outer face is out, the rest is in."""
    affine = np.diag([0.2, 0.2, 0.2, 1.0])
    crop = plan_crop((400, 400, 400), affine, (224, 224, 224), (199.5, 199.5, 199.5), (12.0, 12.0, 12.0), 0.9)
    field = FieldOfView((39.9 - 88.0 + 10.0, 39.9, 0.0), 88.0)
    valid = TokenValidity(16)(crop, field)
    assert valid.shape == (2744,)
    assert np.array_equal(valid.numpy()[::97], (parts_of(crop, 16, field, range(0, 2744, 97)) > 0.95))
    assert 0.4 < valid.float().mean() < 0.9


def parts_of(crop, patch_size, field, tokens):
    """Like `parts`, for some tokens."""
    shape, steps = [n // patch_size for n in crop.size], indices([patch_size] * 3).reshape(-1, 3)
    found = []
    for token in tokens:
        voxels = np.array(np.unravel_index(token, shape)) * patch_size + steps
        places = moved(crop.matrix, voxels)
        inside = ((places >= -0.5) & (places <= np.array(crop.shape) - 0.5)).all(axis=-1)
        found.append((inside & field.contains(moved(crop.crop_affine, voxels))).mean())
    return np.array(found)


def test_the_dictionary_reads_the_item():
    field = FieldOfView(tuple(moved(WORLDS["plain"], (13, 9, 10))), 3.0, (0.3, 0.1, 1.0))
    crop, image = plan(**POSE), torch.zeros(1, *SIZE)
    expected = TokenValidity(4)(crop, field)
    item = {"image": image, "crop": crop, "fov": field.to_item(), "patient": "x"}
    result = TokenValidityd(4)(item)
    assert torch.equal(result["valid"], expected)
    assert set(item) == {"image", "crop", "fov", "patient"}
    assert {key: result[key] for key in item} == item
    renamed = {"volume": image, "plan": crop, "field": field}
    transform = TokenValidityd(4, image_key="volume", fov_key="field", plan_key="plan", key="inside")
    assert torch.equal(transform(renamed)["inside"], expected)
    assert TokenValidityd(4, min_inside=0.5)(item)["valid"].sum() > expected.sum()
    assert TokenValidityd(4)({"crop": crop})["valid"].sum() > expected.sum()
    assert torch.equal(pickle.loads(pickle.dumps(TokenValidityd(4)))(item)["valid"], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_as_on_the_cpu():
    field = FieldOfView(tuple(moved(WORLDS["plain"], (13, 9, 10))), 3.0, (0.3, 0.1, 1.0))
    image = torch.zeros(1, *SIZE, device="cuda")
    valid = TokenValidityd(4)({"image": image, "crop": plan(**POSE), "fov": field})["valid"]
    assert valid.is_cuda
    assert torch.equal(valid.cpu(), TokenValidity(4)(plan(**POSE), field))


# --- messages ---


def test_a_crop_without_a_valid_token():
    field = FieldOfView((1000.0, 0.0, 0.0), 88.0)
    with pytest.raises(
        ValueError,
        match=r"^/data/a\.nii: no token of the crop lies in the scan\. Check the joint's centre and the field of view "
        r"in the datalist \(radius 88 mm around \[1000\.0, 0\.0, 0\.0\]\)\.",
    ):
        TokenValidityd(4)({"crop": plan(), "fov": field})
    with pytest.raises(ValueError, match=r"^the volume: no token .* in the datalist\.$"):
        TokenValidity(4)(plan((-50.0, 9.0, 9.0), file=None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), r"`patch_size` must be at least 1, got 0\."),
        ((4, 1.0), r"`min_inside` must lie in \[0, 1\), got 1\. The paper's is 0\.95"),
        ((4, -0.1), r"`min_inside` must lie in \[0, 1\), got -0\.1\."),
    ],
)
def test_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenValidityd(*arguments)


def test_the_crop_must_be_made_of_tokens():
    with pytest.raises(ValueError, match=r"multiple of `patch_size` = 5 along every axis, got 16 x 12 x 8\."):
        TokenValidity(5)(plan())
