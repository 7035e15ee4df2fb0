"""NIfTI files: what is written is what was meant, and nothing else."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.phantoms import nifti_files as module
from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti, write_scan

AFFINE = np.array([[-0.4, 0.0, 0.0, 30.0], [0.0, 0.3, 0.0, -20.0], [0.0, 0.0, 0.5, 7.0], [0.0, 0.0, 0.0, 1.0]])


def test_hounsfield_units_are_rounded_and_held_in_range():
    whole = whole_hu(np.array([-1000.4, -1000.6, 0.6, 32767.4, 1e6, -1e6], np.float32))
    assert whole.dtype == np.int16
    assert whole.tolist() == [-1000, -1001, 1, 32767, 32767, -32768]


@pytest.mark.parametrize("dtype", [np.int16, np.uint8])
def test_volume_and_geometry_come_back(tmp_path, dtype):
    volume = np.arange(24, dtype=dtype).reshape(2, 3, 4)
    write_nifti(tmp_path / "a.nii.gz", volume, AFFINE)
    found = nib.load(tmp_path / "a.nii.gz")
    assert found.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(found.dataobj), volume)
    assert np.allclose(found.affine, AFFINE)
    assert np.allclose(found.get_qform(), AFFINE, atol=1e-5)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (1, 1)
    assert found.header.get_xyzt_units()[0] == "mm"


def test_bytes_depend_on_the_volume_alone(tmp_path):
    volume = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for name in ("one.nii.gz", "another.nii.gz"):
        write_nifti(tmp_path / name, volume, AFFINE)
    first, second = ((tmp_path / name).read_bytes() for name in ("one.nii.gz", "another.nii.gz"))
    assert first == second
    # no flags, so no name; no time
    assert (first[3], first[4:8]) == (0, b"\0\0\0\0")
    assert len(gzip.decompress(first)) == 352 + 48


def test_a_scan_is_a_pair_of_files(tmp_path):
    image, label = np.full((2, 3, 4), 11.6, np.float32), np.full((2, 3, 4), 2, np.uint8)
    files = write_scan(tmp_path / "new", "jaw_0", image, label, AFFINE)
    assert files == {"image": "images/jaw_0.nii.gz", "label": "labels/jaw_0.nii.gz"}
    found = {key: nib.load(tmp_path / "new" / path) for key, path in files.items()}
    assert {key: (f.get_data_dtype(), int(f.dataobj[0, 0, 0])) for key, f in found.items()} == {
        "image": (np.int16, 12),
        "label": (np.uint8, 2),
    }


def test_a_crash_leaves_no_half_file(tmp_path, monkeypatch):
    def crash(path, volume, affine):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_nifti", crash)
    with pytest.raises(KeyboardInterrupt):
        write_scan(tmp_path, "jaw", np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.uint8), AFFINE)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
