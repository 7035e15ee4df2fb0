"""Preprocessing, a perfect network, postprocessing, saving: the label lies on the input's grid, exactly."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import SaveImaged

from bertswin_ext.data import VolumeReader, make_phantom
from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti
from bertswin_ext.geometry import moved
from bertswin_ext.transforms.segmentation_pipelines import segmentation_postprocessing, segmentation_preprocessing

SIZE, SPACING_MM = (26, 30, 24), (1.0, 0.8, 1.2)
REGION_MM = 18.0
SIGNS = list(product((1, -1), repeat=3))
ORDERS = list(permutations(range(3)))


def flipped(volume, affine, signs, order):
    """The same volume with its axes reversed where a sign is negative, then swapped."""
    turn = np.diag([*signs, 1.0])
    turn[:3, 3] = [0 if sign > 0 else size - 1 for sign, size in zip(signs, volume.shape, strict=True)]
    swap = np.eye(4)[:, [*order, 3]]
    reversed_axes = volume[tuple(slice(None, None, sign) for sign in signs)]
    return np.ascontiguousarray(reversed_axes.transpose(order)), affine @ turn @ swap


def written(folder, side, signs, order=(0, 1, 2), oblique_deg=14.0, spacing_mm=SPACING_MM):
    """A phantom's files in an orientation, as an item of a datalist."""
    phantom = make_phantom(3, SIZE, spacing_mm, side=side, oblique_deg=oblique_deg)
    # the phantom's own axes, which a left one has reversed, as they are closest to RAS
    array_signs = np.sign(np.diag(phantom.affine)[:3]).astype(int) * signs
    item = {"joint": side, "center_mm": list(phantom.joint_center_mm)}
    for name, volume in (("image", whole_hu(phantom.image)), ("label", phantom.label)):
        path = folder / f"{name}.nii.gz"
        write_nifti(path, *flipped(volume, phantom.affine, array_signs, order))
        item[name] = str(path)
    return item


def segmented(item, folder, spacing_mm, region_mm=None):
    """What a network that is always right gives: the label in memory, and the file that is saved."""
    preprocessing = segmentation_preprocessing(spacing_mm, VolumeReader(), with_label=True, region_mm=region_mm)
    sample = preprocessing(item)
    sample["pred"] = torch.nn.functional.one_hot(sample["label"][0].as_tensor().long(), 3).movedim(-1, 0).float() * 20
    sample = segmentation_postprocessing(preprocessing)(sample)
    save = SaveImaged(
        "pred",
        output_dir=folder,
        output_postfix="seg",
        separate_folder=False,
        resample=False,
        output_dtype=np.uint8,
        print_log=False,
    )
    return save(sample)["pred"], nib.load(folder / "image_seg.nii.gz")


def within(original, center_mm, region_mm):
    """The voxels that surely lie in the box around the joint, and those that may."""
    if region_mm is None:
        return np.ones(original.shape, bool), np.ones(original.shape, bool)
    spacing = np.linalg.norm(original.affine[:3, :3], axis=0)
    joint = moved(np.linalg.inv(original.affine), center_mm)
    apart = np.abs(np.moveaxis(np.indices(original.shape), 0, -1) - joint) * spacing
    sure, possible = region_mm / 2 - spacing, region_mm / 2 + spacing
    return (apart <= sure).all(axis=-1), (apart <= possible).all(axis=-1)


def dice(one, other, index):
    a, b = one == index, other == index
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def check(item, folder, spacing_mm, region_mm, least):
    label, saved = segmented(item, folder, spacing_mm, region_mm)
    original = nib.load(item["label"])
    image = nib.load(item["image"])
    np.testing.assert_allclose(label.affine.numpy(), image.affine, rtol=0, atol=1e-10)
    assert label.shape == (1, *image.shape)
    assert label.dtype == torch.uint8

    assert saved.shape == image.shape
    assert saved.get_data_dtype() == np.uint8
    assert nib.aff2axcodes(saved.affine) == nib.aff2axcodes(image.affine)
    np.testing.assert_allclose(saved.affine, image.affine, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), label[0].numpy())

    found, wanted = label[0].numpy(), np.asarray(original.dataobj)
    sure, possible = within(original, item["center_mm"], region_mm)
    assert not found[~possible].any()
    for index in (1, 2):
        assert np.count_nonzero(wanted[sure] == index) > 100
        assert dice(found[sure], wanted[sure], index) >= least
    return saved


@pytest.mark.parametrize("region_mm", [None, REGION_MM])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("signs", SIGNS)
def test_the_label_comes_back_on_the_inputs_grid(tmp_path, signs, side, region_mm):
    """An oblique and anisotropic scan, at the spacing of a network."""
    saved = check(written(tmp_path, side, signs), tmp_path, 0.6, region_mm, least=0.97)
    codes = [pair[0 if sign > 0 else 1] for pair, sign in zip(("RL", "AP", "SI"), signs, strict=True)]
    assert list(nib.aff2axcodes(saved.affine)) == codes


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("signs", [(1, -1, 1), (-1, -1, 1)])
def test_axes_in_another_order(tmp_path, order, signs):
    check(written(tmp_path, "left", signs, order), tmp_path, 0.6, REGION_MM, least=0.97)


@pytest.mark.parametrize("region_mm", [None, REGION_MM])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("signs", SIGNS)
def test_at_the_scans_own_spacing_nothing_is_lost(tmp_path, signs, side, region_mm):
    """Straight axes, whose affines have zeros, are kept to the last digit, and so is every voxel of the label."""
    item = written(tmp_path, side, signs, oblique_deg=0.0, spacing_mm=(0.8, 0.8, 0.8))
    saved = check(item, tmp_path, 0.8, region_mm, least=1.0)
    np.testing.assert_array_equal(saved.affine, nib.load(item["image"]).affine)


def test_a_coarser_network_grid_loses_edges_only(tmp_path):
    check(written(tmp_path, "left", (-1, 1, -1)), tmp_path, 1.2, None, least=0.85)


def test_a_file_that_is_saved_with_monais_defaults_lies_there_too(tmp_path):
    """MONAI resamples on saving where it believes the affine to have changed."""
    item = written(tmp_path, "left", (-1, 1, 1))
    preprocessing = segmentation_preprocessing(0.6, VolumeReader(), with_label=True)
    sample = preprocessing(item)
    sample["pred"] = torch.nn.functional.one_hot(sample["label"][0].as_tensor().long(), 3).movedim(-1, 0).float() * 20
    sample = segmentation_postprocessing(preprocessing)(sample)
    SaveImaged("pred", output_dir=tmp_path, separate_folder=False, print_log=False)(sample)
    saved, image = nib.load(tmp_path / "image_trans.nii.gz"), nib.load(item["image"])
    np.testing.assert_allclose(saved.affine, image.affine, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), sample["pred"][0].numpy())
