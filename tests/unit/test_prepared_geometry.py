"""From a scan in any orientation through preparation and transforms to a crop, and back: everything keeps its place."""

import json
from itertools import product

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data import load_datalist, make_phantom
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.prepare import prepare
from bertswin_ext.geometry import moved
from bertswin_ext.stored_volume import open_stored_volume
from bertswin_ext.transforms import OpenStoredd, RandJointCropd, ResampleCropd
from tests.unit.data.worlds import hounsfield

VOXEL_MM, ROI, CROP = 0.8, 44, 32
SIZE, SPACING_MM = (44, 52, 40), (1.0, 0.8, 1.2)
SIGNS = list(product((1, -1), repeat=3))


def world_of(affine, shape):
    return moved(affine, np.moveaxis(np.indices(shape), 0, -1))


def flipped(volume, affine, signs, order):
    """The same volume with its axes reversed where a sign is negative, then swapped."""
    turn = np.diag([*signs, 1.0])
    turn[:3, 3] = [0 if sign > 0 else size - 1 for sign, size in zip(signs, volume.shape, strict=True)]
    swap = np.eye(4)[:, [*order, 3]]
    reversed_axes = volume[tuple(slice(None, None, sign) for sign in signs)]
    return np.ascontiguousarray(reversed_axes.transpose(order)), affine @ turn @ swap


def written(folder, side, signs, order, oblique_deg=12.0):
    """A phantom's label, with an image that says where it is, as a clinic's files and a datalist."""
    phantom = make_phantom(4, SIZE, SPACING_MM, side=side, oblique_deg=oblique_deg)
    image = hounsfield(world_of(phantom.affine, SIZE) - phantom.joint_center_mm) + 700
    for name, volume in (("image", image.astype(np.float32)), ("label", phantom.label)):
        nib.save(nib.Nifti1Image(*flipped(volume, phantom.affine, signs, order)), folder / f"{name}.nii.gz")
    item = {"image": "image.nii.gz", "label": "label.nii.gz", "patient": "a"}
    item |= {"joint": side, "center_mm": list(phantom.joint_center_mm)}
    (folder / "datalist.json").write_text(json.dumps({"training": [item]}))
    return phantom


@pytest.fixture
def store(tmp_path):
    """Prepare a scan of an orientation; returns the phantom and the item of the store."""

    def made(side, signs, order=(0, 1, 2)):
        raw = tmp_path / "raw"
        raw.mkdir()
        phantom = written(raw, side, signs, order)
        settings = PreparationSettings(spacing_mm=VOXEL_MM, roi_size=ROI, intensity="hu")
        prepared = prepare(raw, tmp_path / "store", settings, num_workers=1, progress=False)
        assert prepared.refused == []
        (item,) = load_datalist(tmp_path / "store").training
        return phantom, item

    return made


def cropped(item, random):
    keys = ["image", "label"]
    sample = OpenStoredd(keys, VOXEL_MM)(item)
    sample = RandJointCropd(keys, CROP, random=random).set_random_state(3)(sample)
    resampling = ResampleCropd(keys, mode=["bilinear", "nearest"], fill=[-1000.0, 0])
    return resampling, resampling(sample)


def mandible_within(label, affine, crop):
    """Middle of the mandible's voxels in the world, of those that lie at least 2 voxels within the crop."""
    places = world_of(affine, label.shape)[np.asarray(label) == 1]
    inside = moved(np.linalg.inv(crop.crop_affine), places)
    kept = places[((inside > 2) & (inside < CROP - 3)).all(axis=-1)]
    assert len(kept) > 200
    return kept.mean(axis=0)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("signs", SIGNS, ids=lambda signs: "".join("+" if sign > 0 else "-" for sign in signs))
def test_centre_label_and_values_keep_their_place(store, signs, side, random):
    phantom, item = store(side, signs, order=(2, 0, 1) if signs[0] * signs[1] < 0 else (0, 1, 2))
    assert item["center_mm"] == pytest.approx(phantom.joint_center_mm, abs=1e-3)
    resampling, sample = cropped(item, random)
    plan, image, label = sample["crop"], sample["image"], sample["label"]
    np.testing.assert_allclose(image.affine.numpy(), plan.crop_affine, atol=1e-9)
    # left joints look like right ones: the crop's first axis then runs from right to left
    assert np.sign(np.linalg.det(plan.crop_affine)) == (-1 if side == "left" else 1)

    # the joint is where the crop says; without chance, in its middle
    at = moved(np.linalg.inv(plan.crop_affine), phantom.joint_center_mm)
    assert (at > 0).all()
    assert (at < CROP - 1).all()
    if not random:
        assert np.abs(at - (CROP - 1) / 2).max() <= 0.5 + 1e-6

    # every value says where in the world it was measured
    stored = open_stored_volume(item["image"])
    seen = moved(np.linalg.inv(stored.affine), world_of(plan.crop_affine, (CROP,) * 3))
    inside = ((seen > 0) & (seen < np.array(stored.shape) - 1)).all(axis=-1)
    expected = hounsfield(world_of(plan.crop_affine, (CROP,) * 3) - phantom.joint_center_mm) + 700
    assert inside.mean() > 0.8
    # half a HU from rounding to int16, of 28 HU per mm
    np.testing.assert_allclose(image[0].numpy()[inside], expected[inside], atol=1.2)

    # the mandible
    found = mandible_within(label[0].numpy(), plan.crop_affine, plan)
    assert np.abs(found - mandible_within(phantom.label, phantom.affine, plan)).max() <= VOXEL_MM / 2

    # and back onto the grid of the store
    back = resampling.inverse(sample)
    stored = open_stored_volume(item["label"])
    assert back["label"].shape[1:] == stored.shape
    np.testing.assert_allclose(back["label"].affine.numpy(), stored.affine, atol=1e-5)
    found = mandible_within(back["label"][0].numpy(), stored.affine, plan)
    assert np.abs(found - mandible_within(stored.read(), stored.affine, plan)).max() <= VOXEL_MM / 2
    within = moved(np.linalg.inv(plan.crop_affine), world_of(stored.affine, stored.shape))
    within = ((within > 2) & (within < CROP - 3)).all(axis=-1)
    values = open_stored_volume(item["image"]).read()
    np.testing.assert_allclose(back["image"][0].numpy()[within], values[within], atol=1.2)
