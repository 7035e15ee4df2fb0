"""A volume on disk is what was written, box by box, and nothing else passes for one."""

import dataclasses
import gzip
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import moved, spacing_of
from bertswin_ext.stored_volume import open_stored_volume, write_stored_volume

SHAPE = (7, 9, 11)
STRAIGHT = np.array([[0.2, 0, 0, -40.0], [0, 0.4, 0, 3.5], [0, 0, 0.5, 1000.25], [0, 0, 0, 1]])


def voxels(dtype="int16", shape=SHAPE, seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def tilted(seed, largest_deg=30.0):
    """An affine whose axes are turned by up to this angle, closest to RAS still."""
    rng = np.random.default_rng(seed)
    x, y, z = (axis := rng.standard_normal(3)) / np.linalg.norm(axis)
    cross, angle = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]), np.radians(largest_deg)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [0.2, 0.4, 0.5], rng.uniform(-100, 100, 3)
    return affine


def write(folder, array=None, affine=STRAIGHT, name="a.nii"):
    path = folder / name
    write_stored_volume(path, voxels() if array is None else array, affine)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- round trips ---


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_the_whole_volume_comes_back(tmp_path, dtype):
    array = voxels(dtype)
    stored = open_stored_volume(write(tmp_path, array))
    assert (stored.shape, stored.dtype, stored.path) == (SHAPE, dtype, str(tmp_path / "a.nii"))
    assert stored.read().dtype == array.dtype
    assert np.array_equal(stored.read(), array)


def test_the_limits_of_int16_survive(tmp_path):
    array = voxels()
    array[0, 0, :3] = -32768, 32767, 0
    assert open_stored_volume(write(tmp_path, array)).read((0, 0, 0), (1, 1, 3)).ravel().tolist() == [-32768, 32767, 0]


@pytest.mark.parametrize("dtype", ["int16", "uint8"])
def test_any_box_is_that_of_the_array(tmp_path, dtype):
    array, rng = voxels(dtype), np.random.default_rng(1)
    stored = open_stored_volume(write(tmp_path, array))
    for _ in range(40):
        start = [int(rng.integers(0, n)) for n in SHAPE]
        stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, SHAPE, strict=True)]
        expected = array[tuple(map(slice, start, stop))]
        assert np.array_equal(stored.read(start, stop), expected)
    assert np.array_equal(stored.read((2, 3, 4)), array[2:, 3:, 4:])
    assert np.array_equal(stored.read(np.array([2, 3, 4]), np.array([3, 4, 5])), array[2:3, 3:4, 4:5])


def test_a_box_is_an_array_of_its_own(tmp_path):
    stored = open_stored_volume(write(tmp_path))
    box = stored.read((1, 1, 1), (3, 4, 5))
    assert box.flags.c_contiguous
    assert box.flags.owndata
    box[...] = 0
    assert np.array_equal(stored.read(), voxels())


@pytest.mark.parametrize("affine", [STRAIGHT, tilted(0), tilted(1), tilted(2)], ids=["straight", "a", "b", "c"])
def test_voxels_stay_where_they_are_in_the_world(tmp_path, affine):
    stored = open_stored_volume(write(tmp_path, affine=affine))
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in SHAPE])).reshape(3, -1).T
    assert np.allclose(moved(stored.affine, corners), moved(affine, corners), rtol=0, atol=1e-4)
    assert np.allclose(spacing_of(stored.affine), [0.2, 0.4, 0.5], atol=1e-6)


@pytest.mark.parametrize("affine", [STRAIGHT, tilted(3)], ids=["straight", "tilted"])
def test_other_programs_see_the_same_voxels_at_the_same_places(tmp_path, affine):
    array = voxels()
    path = write(tmp_path, array, affine)
    image = nib.load(path)
    assert image.get_data_dtype() == np.int16
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(image.header.get_zooms(), [0.5, 0.4, 0.2])
    canonical = nib.as_closest_canonical(image)
    assert np.array_equal(np.asarray(canonical.dataobj), array)
    assert np.allclose(canonical.affine, affine, rtol=0, atol=1e-4)


def test_a_box_lies_in_long_runs_of_the_file(tmp_path):
    """The bytes after the header are the array in C order: the third axis runs fastest."""
    array = voxels()
    path = write(tmp_path, array)
    assert path.read_bytes()[open_stored_volume(path).offset :] == array.tobytes()


@pytest.mark.parametrize(
    "other",
    [
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=2)[..., ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.astype(">i2"),
    ],
    ids=["fortran", "strided", "reversed", "big-endian"],
)
def test_the_bytes_depend_on_the_values_alone(tmp_path, other):
    first = write(tmp_path, voxels(), name="a.nii").read_bytes()
    second = write(tmp_path, other(voxels()), name="b.nii").read_bytes()
    assert first == second


def test_a_volume_of_one_voxel(tmp_path):
    stored = open_stored_volume(write(tmp_path, np.full((1, 1, 1), -5, dtype=np.int16)))
    assert (stored.shape, stored.read().tolist()) == ((1, 1, 1), [[[-5]]])


def test_a_stored_volume_is_a_value_without_an_open_file(tmp_path):
    def opened():
        return {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}

    path = write(tmp_path)
    stored = open_stored_volume(path)
    box = stored.read((0, 0, 0), (2, 2, 2))
    if os.path.isdir("/proc/self/fd"):
        assert str(path) not in opened()
    assert box.any()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stored.offset = 0


# --- boxes that are refused ---


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        ((-1, 0, 0), (3, 3, 3)),
        ((0, 0, 0), (8, 9, 11)),
        ((0, 0, 0), (7, 9, 12)),
        ((3, 3, 3), (3, 4, 4)),
        ((3, 4, 3), (4, 3, 4)),
        ((7, 0, 0), None),
    ],
)
def test_a_box_must_lie_inside(tmp_path, start, stop):
    stored = open_stored_volume(write(tmp_path))
    with pytest.raises(ValueError, match=r"The box from \(.*\) to \(.*\) must lie inside .*a\.nii, 7 x 9 x 11 voxels"):
        stored.read(start, stop)


# --- what is not written ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "a.nii.gz"}, r"name must end with \.nii, got .*a\.nii\.gz"),
        ({"name": "a"}, r"name must end with \.nii, got .*a\."),
        ({"array": np.zeros((2, 2, 2))}, r"must be \(i, j, k\) of int16 or uint8, got \(2, 2, 2\) of float64"),
        ({"array": np.zeros((2, 2, 2), dtype=np.uint16)}, r"got \(2, 2, 2\) of uint16"),
        ({"array": np.zeros((1, 2, 2, 2), dtype=np.int16)}, r"got \(1, 2, 2, 2\) of int16"),
        ({"affine": np.diag([-1.0, 1, 1, 1])}, r"axes must be closest to RAS, got LAS"),
        ({"affine": np.eye(4)[[2, 1, 0, 3]]}, r"axes must be closest to RAS, got SAR"),
    ],
)
def test_only_volumes_of_a_store_are_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **arguments)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """A limit on the size of files is the one way to a failing write that needs no rights."""
    code = (
        "import resource, signal, sys, numpy as np\n"
        "from bertswin_ext.stored_volume import write_stored_volume\n"
        "write_stored_volume(sys.argv[1], np.ones((4, 4, 4), dtype=np.int16), np.eye(4))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    write_stored_volume(sys.argv[1], np.zeros((50, 50, 50), dtype=np.int16), np.eye(4))\n"
        "except OSError as error:\n"
        "    sys.exit(7)\n"
    )
    pytest.importorskip("resource", reason="no limits on files here")
    path = tmp_path / "a.nii"
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 7, run.stderr
    assert names(tmp_path) == ["a.nii"]
    assert open_stored_volume(path).read().tolist() == np.ones((4, 4, 4)).tolist()  # the old file, whole


# --- what is not opened ---


def test_a_missing_file(tmp_path):
    with pytest.raises(VolumeError, match=r"b\.nii: the stored volume does not exist\. Run `python -m bertswin_ext"):
        open_stored_volume(tmp_path / "b.nii")


@pytest.mark.parametrize("lost", [1, 500])
def test_a_file_that_is_cut_off(tmp_path, lost):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    size = len(content)
    with pytest.raises(VolumeError, match=rf"a\.nii: is cut off: {size - lost} of {size} bytes\. Run"):
        open_stored_volume(path)


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"x" * 100])
def test_a_file_without_a_header(tmp_path, content):
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.nii: the header of the stored volume is damaged \(.*\)\. Run"):
        open_stored_volume(path)


def scaled(image):
    image.header.set_slope_inter(1, -1024)
    return image


def big_endian(image):
    return nib.Nifti1Image(image.dataobj, image.affine, image.header.as_byteswapped(">"))


@pytest.mark.parametrize(
    "change",
    [
        scaled,
        big_endian,
        lambda image: nib.Nifti1Image(np.zeros(SHAPE[::-1], dtype=np.float32), image.affine),
        lambda image: nib.Nifti1Image(np.zeros(SHAPE[::-1], dtype=np.uint16), image.affine),
        lambda image: nib.Nifti1Image(np.zeros((*SHAPE[::-1], 1), dtype=np.int16), image.affine),
        lambda image: nib.Nifti1Image(image.dataobj, STRAIGHT),
    ],
    ids=["scaled", "big-endian", "float", "uint16", "4D", "axes in NIfTI's order"],
)
def test_other_volumes_are_refused(tmp_path, change):
    path = write(tmp_path)
    image = change(nib.Nifti1Image.from_bytes(path.read_bytes()))
    nib.save(image, path)
    with pytest.raises(VolumeError, match=r"a\.nii: is not a stored volume\. Run"):
        open_stored_volume(path)


def test_a_compressed_volume_is_refused(tmp_path):
    """Noise does not shrink, so that the size of the file does not give it away."""
    packed = tmp_path / "a.nii.gz"
    packed.write_bytes(gzip.compress(write(tmp_path).read_bytes(), compresslevel=0))
    with pytest.raises(VolumeError, match=r"a\.nii\.gz: is not a stored volume\. Run"):
        open_stored_volume(packed)


# --- files that change after opening ---


def test_a_file_that_has_become_shorter(tmp_path):
    stored = open_stored_volume(write(tmp_path))
    write(tmp_path, voxels(shape=(2, 2, 2)))
    with pytest.raises(VolumeError, match=r"a\.nii: the stored volume has changed since the run began \(.*\)"):
        stored.read((0, 0, 0), (1, 1, 1))


def test_a_file_that_has_gone(tmp_path):
    stored = open_stored_volume(path := write(tmp_path))
    path.unlink()
    with pytest.raises(VolumeError, match=r"a\.nii: the stored volume has changed since the run began \(.*No such"):
        stored.read()
