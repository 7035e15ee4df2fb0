from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.data import VolumeReader
from bertswin_ext.deployment.joint_cube import CutJointCube
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.geometry import moved
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.transforms import device_transforms, pretraining_transforms

PATCH = 4
NETWORK = BertsWinMAE(
    img_size=(16, 12, 8), patch_size=PATCH, hidden_size=12, num_layers=1, num_heads=1, window_size=2, stem_channels=4
)
RECORD = AdaptationRecord.of(NETWORK, (0.8, 0.8, 1.2))
SLOPE = np.array([11.0, -7.0, 5.0])  # HU per mm


def oblique():
    """Voxels of three sizes, turned, near RAS."""
    affine = np.diag([0.7, 0.9, 1.1, 1.0])
    angle = np.deg2rad(10)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = [-20.0, 13.0, 5.0]
    return affine


def ramp(affine, shape=(40, 36, 30)):
    """A scan whose HU tell the place in the world."""
    index = np.indices(shape).reshape(3, -1).T
    values = (moved(affine, index) @ SLOPE).reshape(1, *shape)
    return MetaTensor(torch.from_numpy(values).float(), affine=torch.from_numpy(affine))


def in_hu(image, record=RECORD):
    return image[0].numpy() * record.std_hu + record.mean_hu


@pytest.mark.parametrize("side", ["right", "left", None])
def test_voxels_and_tokens_are_where_they_are_said_to_be(side):
    affine = oblique()
    center = tuple(moved(affine, [19.3, 18.6, 14.2]).tolist())
    cube = CutJointCube(NETWORK, RECORD)(ramp(affine), ScanJoint(side, center))
    index = np.indices((16, 12, 8)).reshape(3, -1).T
    places = moved(cube.plan.crop_affine, index)
    np.testing.assert_allclose(in_hu(cube.image).ravel(), places @ SLOPE, atol=0.05)
    np.testing.assert_allclose(places.mean(axis=0), center, atol=1e-9)
    tokens = places.reshape(4, PATCH, 3, PATCH, 2, PATCH, 3).mean(axis=(1, 3, 5)).reshape(-1, 3)
    np.testing.assert_allclose(cube.token_centers_mm, tokens, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(cube.plan.crop_affine[:3, :3], axis=0), RECORD.spacing_mm)
    assert cube.grid_size == (4, 3, 2)
    assert cube.mirrored == (side == "left")
    # along i a mirrored cube runs from right to left
    assert np.sign(places[-1, 0] - places[0, 0]) == (-1 if side == "left" else 1)
    assert cube.valid.all()
    assert type(cube.image) is torch.Tensor
    assert (cube.name, cube.center_mm) == (side or "joint", center)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_cube_is_what_validation_of_the_pre_training_sees(tmp_path, side):
    """At the network's own voxels, where both cut at the same place."""
    hu = np.random.default_rng(0).normal(200, 900, (24, 20, 18)).astype(np.int16)
    affine = np.diag([0.8, 0.8, 1.2, 1.0])
    nib.save(nib.Nifti1Image(hu, affine), tmp_path / "scan.nii")
    center = moved(affine, [11.5, 9.5, 8.5]).tolist()
    fov = {"center_mm": [9.0, 7.0, 0.0], "radius_mm": 6.0}
    item = {"image": str(tmp_path / "scan.nii"), "center_mm": center, "joint": side, "fov": fov}
    sizes = {"roi_size": NETWORK.img_size, "patch_size": PATCH}
    boxes = pretraining_transforms(**sizes, spacing_mm=RECORD.spacing_mm, random=False, reader=VolumeReader())
    expected = device_transforms(PATCH)(boxes(item))
    scan = MetaTensor(torch.from_numpy(hu[None]), affine=torch.from_numpy(affine))
    cube = CutJointCube(NETWORK, RECORD)(scan, ScanJoint(side, tuple(center)), fov)
    torch.testing.assert_close(cube.image, expected["image"], rtol=0, atol=1e-5)
    assert torch.equal(cube.valid, expected["valid"])
    assert 0 < cube.valid.sum() < len(cube.valid)


def test_at_the_edge_of_a_scan_the_joint_stays_in_the_middle():
    affine = np.diag([0.8, 0.8, 1.2, 1.0])
    cube = CutJointCube(NETWORK, RECORD)(ramp(affine), ScanJoint("right", (0.0, 14.0, 18.0)))
    np.testing.assert_allclose(cube.token_centers_mm.mean(axis=0), [0.0, 14.0, 18.0], atol=1e-9)
    # of four layers of tokens two lie outside
    assert cube.valid.reshape(4, 3, 2)[:, 0, 0].tolist() == [False, False, True, True]
    assert in_hu(cube.image)[:7].max() == pytest.approx(-1000, abs=0.01)


def test_the_middle_of_a_scan():
    affine = oblique()
    cube = CutJointCube(NETWORK, RECORD)(ramp(affine), ScanJoint(None, None))
    assert cube.name == "centre"
    np.testing.assert_allclose(cube.center_mm, moved(affine, [19.5, 17.5, 14.5]))
    np.testing.assert_allclose(cube.token_centers_mm.mean(axis=0), cube.center_mm, atol=1e-9)


def test_the_record_tells_the_scale():
    record = replace(RECORD, min_hu=-50.0, max_hu=120.0, mean_hu=10.0, std_hu=50.0)
    affine = np.diag([0.8, 0.8, 1.2, 1.0])
    joint = ScanJoint("right", (10.0, 16.0, 8.0))
    own, usual = (CutJointCube(NETWORK, r)(ramp(affine), joint).image for r in (record, RECORD))
    expected = (in_hu(usual).clip(-50, 120) - 10) / 50
    np.testing.assert_allclose(own[0].numpy(), expected, atol=1e-4)
    assert (float(own.min()), float(own.max())) == pytest.approx((-1.2, 2.2))


@pytest.mark.parametrize(
    ("joint", "fov", "message"),
    [
        (ScanJoint("right", (500.0, 0.0, 0.0)), None, r"outside the volume of 40 x 36 x 30 voxels"),
        (ScanJoint("both", (0.0, 0.0, 0.0)), None, r'`joint` must be "left" or "right", got \'both\''),
        (
            ScanJoint("right", (14.0, 14.0, 18.0)),
            {"center_mm": [300.0, 0.0, 0.0], "radius_mm": 9.0},
            r"no token of the crop lies in the scan",
        ),
    ],
)
def test_joints_that_cannot_be_cut_out(joint, fov, message):
    with pytest.raises(ValueError, match=message):
        CutJointCube(NETWORK, RECORD)(ramp(np.diag([0.8, 0.8, 1.2, 1.0])), joint, fov)
