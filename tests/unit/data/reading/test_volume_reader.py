"""NIfTI, NRRD and MetaImage: the right place in space, or an error that says what to do."""

import os
import struct

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from bertswin_ext.data.reading.volume_reader import VolumeError, VolumeReader
from tests.unit.data.worlds import error, hounsfield, load

SIZE = (9, 8, 7)
AFFINE = np.array([[1.0, 0, 0, -20], [0, 2.0, 0, 15], [0, 0, 1.5, 40], [0, 0, 0, 1]])


def turned(affine):
    """The same grid, turned by 30 degrees about the z axis and 20 about the x axis."""
    a, b = np.radians([30.0, 20.0])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    result = affine.copy()
    result[:3, :3] = about_x @ about_z @ affine[:3, :3]
    return result


def world(affine):
    """HU on a grid, ``(i, j, k)``."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in SIZE], indexing="ij"), axis=-1)
    return hounsfield(indices @ affine[:3, :3].T + affine[:3, 3])


def save_nifti(path, array, affine=AFFINE, **header):
    image = nib.Nifti1Image(array, affine)
    for field, value in header.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def patch(path, offset, *values, form="<f"):
    """Overwrite numbers in a NIfTI header."""
    content = bytearray(path.read_bytes())
    for index, value in enumerate(values):
        struct.pack_into(form, content, offset + index * struct.calcsize(form), value)
    path.write_bytes(content)
    return path


def save_itk(path, affine):
    """Write the function of space with ITK."""
    image = itk.image_from_array(np.ascontiguousarray(world(affine).T.astype(np.float32)))
    lps = np.diag([-1, -1, 1]) @ affine[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:, 3])
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:, :3] / spacing)))
    itk.imwrite(image, str(path))
    return path


def refusal(path):
    with pytest.raises(VolumeError) as caught:
        VolumeReader().get_data((str(path),))
    return str(caught.value)


GEOMETRIES = {
    "straight": AFFINE,
    "LPS": AFFINE @ np.diag([-1, -1, 1, 1]),
    "mirrored": AFFINE @ np.diag([-1, 1, 1, 1]),
    "permuted": AFFINE[:, [2, 0, 1, 3]],
    "oblique": turned(AFFINE),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_is_where_it_is(tmp_path, suffix, name):
    affine = GEOMETRIES[name]
    path = save_nifti(tmp_path / f"a{suffix}", world(affine).astype(np.float32), affine)
    assert error(load(path)) < 1e-2


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_nrrd_and_metaimage_are_where_they_are(tmp_path, suffix, name):
    path = save_itk(tmp_path / f"a{suffix}", GEOMETRIES[name])
    assert error(load(path)) < 1e-2


def test_nifti_slope_and_intercept_are_applied(tmp_path):
    image = nib.Nifti1Image(np.rint(world(AFFINE) + 1024).astype(np.int16), AFFINE)
    image.header.set_slope_inter(1, -1024)
    nib.save(image, tmp_path / "a.nii")
    assert error(load(tmp_path / "a.nii")) <= 0.51


def test_a_rounding_error_in_pixdim_does_not_lose_the_orientation(tmp_path):
    # MONAI's own reader takes the (unset) qform here, which would swap left and right
    path = save_nifti(tmp_path / "a.nii", world(GEOMETRIES["LPS"]).astype(np.float32), GEOMETRIES["LPS"])
    patch(path, 80, 1.0004)
    patch(path, 252, 0, form="<h")
    assert error(load(path)) < 1e-2


def test_a_fourth_axis_of_size_1_is_dropped(tmp_path):
    save_nifti(tmp_path / "a.nii", world(AFFINE).astype(np.float32)[..., None])
    assert error(load(tmp_path / "a.nii")) < 1e-2
    header = b"NRRD0004\ntype: short\ndimension: 4\nsizes: 4 3 2 1\nendian: little\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(header + np.arange(24, dtype="<i2").tobytes())
    assert tuple(load(tmp_path / "a.nrrd").shape) == (1, 4, 3, 2)


def test_load_image_does_not_fall_back_to_another_reader(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros((4, 4, 4, 3), dtype=np.int16))
    with pytest.raises(VolumeError, match="time series"):
        LoadImaged(keys=["image"], reader=VolumeReader())({"image": str(path)})


def test_one_item_is_one_volume():
    with pytest.raises(VolumeError, match=r"an item must name one volume, got 2 paths: a\.nii, b\.nii\."):
        VolumeReader().get_data(("a.nii", "b.nii"))


def test_a_missing_file(tmp_path):
    path = tmp_path / "a.nii.gz"
    assert refusal(path) == f"{path}: the file does not exist. Correct the path in the datalist."


def test_an_unknown_kind_of_file(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(b"x" * 400)
    assert refusal(path) == (
        f"{path}: unknown kind of file. Convert it to one of .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd, "
        "or name a DICOM file or the folder of a DICOM series."
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".dcm"])
def test_an_empty_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert refusal(path) == f"{path}: the file is empty. Copy it again."


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("part", [0.05, 0.6, 0.99])
def test_a_file_that_is_cut_off(tmp_path, suffix, part):
    path = tmp_path / f"a{suffix}"
    if suffix.startswith(".nii"):
        save_nifti(path, world(AFFINE).astype(np.float32))
    else:
        save_itk(path, AFFINE)
    os.truncate(path, int(part * path.stat().st_size))
    assert refusal(path).startswith(
        f"{path}: the file cannot be read, it is damaged, cut off or not what its suffix says ("
    )
    assert refusal(path).endswith("). Copy or convert it again.")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_file_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"<html>404 not found</html>" * 40)
    assert "cannot be read" in refusal(path)


def test_damaged_gzip(tmp_path):
    path = save_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20), dtype=np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_a_detached_header_without_its_data(tmp_path, suffix):
    path = save_itk(tmp_path / f"a{suffix}", AFFINE)
    (tmp_path / "a.raw").unlink()
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ((4, 5), "is a 2D image of 4 x 5 voxels. "),
        ((4, 5, 1), "is a 2D image of 4 x 5 x 1 voxels. "),
        ((4, 1, 5), "is a 2D image of 4 x 1 x 5 voxels. "),
    ],
)
def test_a_2d_image(tmp_path, size, found):
    path = save_nifti(tmp_path / "a.nii", np.zeros(size, dtype=np.int16))
    assert refusal(path) == (
        f"{path}: {found}A volume needs at least 2 slices: name the whole series, or remove it from the datalist."
    )
    path = tmp_path / "a.mha"
    itk.imwrite(itk.image_from_array(np.zeros(size[::-1], dtype=np.int16)), str(path))
    assert refusal(path).startswith(f"{path}: {found}")


def test_a_time_series(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros((4, 5, 6, 3), dtype=np.int16))
    assert refusal(path) == (
        f"{path}: holds 4 x 5 x 6 x 3 voxels: a time series or several channels. "
        "Write every 3D volume to a file of its own."
    )
    path = save_nifti(tmp_path / "v.nii", np.zeros((4, 5, 6, 1, 3), dtype=np.int16))
    assert refusal(path).startswith(f"{path}: holds 4 x 5 x 6 x 3 voxels")
    path = tmp_path / "a.nrrd"
    header = b"NRRD0004\ntype: short\ndimension: 4\nsizes: 4 3 2 2\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header + bytes(96))
    assert refusal(path).startswith(f"{path}: holds 4 x 3 x 2 x 2 voxels")


REMEDY = "A volume has one real number per voxel: convert it to int16 or float32."


def test_colours(tmp_path):
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save_nifti(tmp_path / "a.nii", rgb)
    found = "several numbers per voxel ([('R', 'u1'), ('G', 'u1'), ('B', 'u1')])"
    assert refusal(path) == f"{path}: holds {found}. {REMEDY}"
    path = tmp_path / "a.mha"
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\nElementNumberOfChannels = 3\nElementSpacing = 1 1 1\n"
    path.write_bytes(f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + bytes(144))
    assert refusal(path) == f"{path}: holds 3 numbers per voxel. {REMEDY}"


def test_complex_numbers(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros((4, 5, 6), dtype=np.complex64))
    assert refusal(path) == f"{path}: holds complex numbers (complex64). {REMEDY}"


def test_no_voxels(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros((4, 0, 6), dtype=np.int16))
    assert refusal(path) == f"{path}: has no voxels (4 x 0 x 6). Convert the scan again."
    path = tmp_path / "a.mha"
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 0 2\nElementSpacing = 1 1 1\n"
    path.write_bytes(f"{header}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode())
    assert refusal(path) == f"{path}: has no voxels (4 x 0 x 2). Convert the scan again."


@pytest.mark.parametrize(("value", "text"), [(0.0, "1 x 0 x 1.5"), (float("nan"), "1 x nan x 1.5")])
def test_a_spacing_of_nothing(tmp_path, value, text):
    path = save_nifti(tmp_path / "a.nii", np.zeros(SIZE, dtype=np.int16))
    patch(path, 84, value)
    assert refusal(path) == (
        f"{path}: the voxel spacing in the header (pixdim) must be above 0 mm, got {text}. "
        "Write the true spacing into the header, or convert the scan again."
    )


def test_spacings_that_contradict_each_other(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros(SIZE, dtype=np.int16))
    patch(path, 80, 5.0)
    assert refusal(path) == (
        f"{path}: the header contradicts itself: the spacing is 1 x 2 x 1.5 mm in the sform and 5 x 2 x 1.5 mm in "
        "pixdim. Write the true one into both, or convert the scan again."
    )


@pytest.mark.parametrize("row", [(float("nan"), 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0)])
def test_a_singular_affine(tmp_path, row):
    path = save_nifti(tmp_path / "a.nii", np.zeros(SIZE, dtype=np.int16))
    patch(path, 280, *row)
    assert refusal(path).startswith(
        f"{path}: the affine does not describe a grid in space (spacing 0, NaN, or parallel axes): ["
    )


@pytest.mark.parametrize("text", ["1 nan 1", "nan nan nan"])
def test_a_nrrd_spacing_of_nan(tmp_path, text):
    path = tmp_path / "a.nrrd"
    header = f"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nspacings: {text}\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + bytes(48))
    assert refusal(path) == (
        f"{path}: the voxel spacing must be above 0 mm, got {text}. "
        "Write the true spacing into the header, or convert the scan again."
    )


@pytest.mark.parametrize("field", ["ElementSpacing = 1 0 1", "TransformMatrix = 1 0 0 1 0 0 0 0 1"])
def test_a_metaimage_without_a_grid(tmp_path, field):
    path = tmp_path / "a.mha"
    header = f"ObjectType = Image\nNDims = 3\nDimSize = 4 3 2\n{field}\nElementType = MET_SHORT\n"
    path.write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + bytes(48))
    assert "cannot be read" in refusal(path)


def test_a_suffix_in_upper_case(tmp_path):
    save_nifti(tmp_path / "a.nii.gz", world(AFFINE).astype(np.float32)).rename(tmp_path / "A.NII.GZ")
    assert error(load(tmp_path / "A.NII.GZ")) < 1e-2
    path = save_itk(tmp_path / "a.mha", AFFINE).rename(tmp_path / "A.MHA")
    assert refusal(path) == f"{path}: ITK needs the suffix in lower case. Rename it to .mha."


def test_an_unset_or_doubtful_orientation_is_logged(tmp_path, caplog):
    path = save_nifti(tmp_path / "a.nii", world(AFFINE).astype(np.float32))
    patch(path, 252, 0, 0, form="<h")
    load(path)
    assert caplog.messages == [
        f"{path}: the header has no orientation (sform and qform are unset): left and right are a guess."
    ]
    caplog.clear()
    image = nib.Nifti1Image(world(AFFINE).astype(np.float32), AFFINE)
    image.set_qform(GEOMETRIES["mirrored"], code=1)
    image.set_sform(AFFINE, code=1)
    nib.save(image, path)
    assert error(load(path)) < 1e-2
    assert caplog.messages == [f"{path}: the sform says RAS and the qform says LAS: the sform is used."]


@pytest.mark.parametrize(("unit", "factor"), [("meter", "1000"), ("micron", "0.001")])
def test_a_nifti_that_is_not_in_mm_is_refused(tmp_path, unit, factor):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    reader = VolumeReader()
    with pytest.raises(VolumeError) as caught:
        reader.get_data(reader.read(str(tmp_path / "a.nii.gz")))
    assert str(caught.value) == (
        f"{tmp_path}/a.nii.gz: the header says that lengths are in {unit}, and they would be read as mm. Write pixdim, "
        f"sform and qform in mm ({factor} times what is there) and set xyzt_units to mm, or set the unit alone if the "
        "numbers are in mm already."
    )


@pytest.mark.parametrize("code", [0, 2, 5, 10])
def test_a_nifti_in_mm_or_without_a_unit_is_read(tmp_path, code):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    image.header["xyzt_units"] = code
    nib.save(image, tmp_path / "a.nii")
    reader = VolumeReader()
    assert reader.get_data(reader.read(str(tmp_path / "a.nii")))[0].shape == (2, 3, 4)
