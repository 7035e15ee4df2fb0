"""Real CT volumes through the first transforms of every bundle.

The volumes are not part of the repository: set ``BERTSWIN_REAL_DATA`` to their folder.
"""

import os
from pathlib import Path

import itk
import numpy as np
import pytest
import torch

from bertswin_ext.data.reading.dicom_series import read_header
from tests.unit.data.worlds import load

DEFAULT = Path(__file__).resolve().parents[5] / "shared" / "data" / "real"
REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", DEFAULT))
TILTED = REAL / "03_ge_head_tilt_dicom" / "dicom"

pytestmark = pytest.mark.skipif(
    not REAL.is_dir(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them"
)


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "values"),
    [
        ("01_unc_cthead/unc_cthead_ct.nii.gz", (256, 256, 113), (1, 1, 2), (-1024, 2248)),
        ("02_imagex_phantom_head/imagex_phantom_head_ct.nii.gz", (192, 240, 118), (0.977, 0.977, 2), (-1024, 2970)),
        ("04_totalseg_abdomen_ct_seg/example_ct.nii.gz", (122, 101, 112), (3, 3, 3), (-1207, 3382)),
        ("05_totalseg_dicom_j2k/dicom", (512, 512, 20), (0.977, 0.977, 2), (-1024, 1839)),
        ("06_seg3d_tooth_nrrd/tooth.nhdr", (103, 94, 161), (1, 1, 1), (0, 1300)),
    ],
)
def test_a_volume_is_read(name, shape, spacing, values, caplog):
    volume = load(REAL / name)
    assert tuple(volume.shape) == (1, *shape)
    assert volume.pixdim.tolist() == pytest.approx(spacing, abs=1e-3)
    assert (volume.min().item(), volume.max().item()) == values
    assert "resampling" not in volume.meta
    assert not caplog.records


def test_a_jpeg_2000_series_lies_on_its_labels():
    # the file of the labels is flipped, which RAS undoes; bone is where the bones are labelled
    image = load(REAL / "05_totalseg_dicom_j2k" / "dicom")
    labels = load(REAL / "05_totalseg_dicom_j2k" / "example_seg_dicom.nii.gz")
    assert torch.allclose(image.affine, labels.affine, atol=1e-2)
    body = image.as_tensor()[labels.as_tensor() > 0]
    assert (body > -300).float().mean() > 0.8


def sampled(volume, ras):
    """Values of a volume at world positions ``(..., 3)``, trilinear."""
    inverse = np.linalg.inv(volume.affine.numpy())
    indices = ras @ inverse[:3, :3].T + inverse[:3, 3]
    scaled = 2 * indices / (np.array(volume.shape[1:]) - 1) - 1
    grid = torch.as_tensor(scaled[..., ::-1].copy(), dtype=torch.float32)[None, None]
    return torch.nn.functional.grid_sample(volume.as_tensor()[None], grid, align_corners=True)[0, 0, 0].numpy()


def pixels(path):
    """World positions (RAS, mm) and values of one DICOM slice, from its own tags."""
    header = read_header(path)
    row, column = header.numbers("0020|0037", 6).reshape(2, 3)
    down, along = header.numbers("0028|0030", 2)
    v, u = np.meshgrid(np.arange(header.size[1]) * down, np.arange(header.size[0]) * along, indexing="ij")
    lps = header.numbers("0020|0032", 3) + u[..., None] * row + v[..., None] * column
    values = itk.array_from_image(itk.imread(str(path), itk.F))[0]
    return lps * [-1, -1, 1], np.where(values <= -1500, -1000, values)


def test_a_tilted_head_is_resampled_to_where_it_is(caplog):
    volume = load(TILTED)
    assert tuple(volume.shape) == (1, 512, 611, 37)
    assert volume.pixdim.tolist() == pytest.approx([0.488, 0.488, 4.002], abs=1e-3)
    # 28 slices over 151.94 mm along the table, seen along the normal of slices tilted by 18.5 degrees
    assert volume.pixdim[2].item() * 36 == pytest.approx(151.94 * np.cos(np.radians(18.5)), abs=0.01)
    note = (
        "unevenly spaced slices (1.08 to 7.00 mm along their normal) and slices tilted by 18.5 degrees against their "
        "stacking direction: resampled from 512 x 512 x 28 onto an upright grid of 512 x 611 x 37 voxels, "
        "0.488 x 0.488 x 4.002 mm"
    )
    assert volume.meta["resampling"] == note
    assert caplog.messages == [f"{TILTED}: {note}"]


@pytest.mark.parametrize(
    ("number", "likeness"), [(1, 0.9999), (5, 0.999), (10, 0.999), (15, 0.995), (20, 0.999), (28, 0.999)]
)
def test_every_slice_of_a_tilted_head_is_found_in_its_place(number, likeness):
    # as one even upright stack, slice 5 would have 0.86 and slice 28 0.33; 15 is 1 mm above 14 and so blurred
    volume = load(TILTED)
    positions, values = pixels(TILTED / f"{number:02d}.dcm")
    found = sampled(volume, positions[4:-4, 4:-4])
    assert np.corrcoef(found.ravel(), values[4:-4, 4:-4].ravel())[0, 1] > likeness


def test_padding_of_a_tilted_head_is_air():
    assert load(TILTED).min() == -1023  # -1500 in the files
