"""Semi-synthetic scans: the scanner, its field of view, and the files of a label map's scans."""

import hashlib
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.datalist import load_datalist
from bertswin_ext.data.phantoms.semi_synthetic import make_semi_synthetic, write_semi_synthetic
from bertswin_ext.errors import VolumeError
from bertswin_ext.geometry import FieldOfView, moved
from tests.unit.data.phantoms.drawn_jaw import HALF_AFFINE, half_map

DEFAULT = Path(__file__).resolve().parents[5] / "shared" / "data" / "real"
REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", DEFAULT))
JAW_MAP = REAL / "L1_cbct_jaw_labels_only" / "PostDentalSurgery_Segmentation.nii.gz"

MM = 1.6
CLEAN = {"noise": False, "artefacts": False}


@pytest.fixture(scope="module")
def jaw():
    return half_map()


@pytest.fixture(scope="module")
def clean(jaw):
    return make_semi_synthetic(jaw, HALF_AFFINE, **CLEAN)


@pytest.fixture(scope="module")
def noisy(jaw):
    return make_semi_synthetic(jaw, HALF_AFFINE, seed=1)


@pytest.fixture(scope="module")
def inside(clean):
    offset = positions(clean.affine, clean.image.shape) - clean.fov_center_mm
    return np.hypot(offset[..., 0], offset[..., 1]) <= clean.fov_radius_mm


def positions(affine, shape):
    return moved(affine, np.stack(np.indices(shape), axis=-1))


# ---- geometry


def test_types_grid_and_labels(jaw, clean, inside):
    assert (clean.image.dtype, clean.label.dtype) == (np.float32, np.uint8)
    assert np.array_equal(clean.affine, HALF_AFFINE)
    classes = np.array([0, 2, 1, 2, 1, 1])[jaw]
    assert np.array_equal(clean.label, np.where(inside, classes, 0))
    assert set(np.unique(clean.label)) == {0, 1, 2}


def test_every_tissue_is_where_its_label_is(jaw, clean):
    means = {value: clean.image[jaw == value].mean() for value in range(6)}
    assert means[0] < -400.0
    assert 600.0 < means[1] < 1300.0
    assert 600.0 < means[2] < 1300.0
    assert means[3] > 1500.0
    assert means[4] > 1500.0
    assert means[5] < means[2] - 200.0  # in voxels nearly as thick as the canal


def test_field_of_view_is_about_the_middle_and_leaves_the_corners_out(clean, noisy, inside):
    assert clean.fov_center_mm == pytest.approx([-20 + 15.5 * MM, -30 + 15.5 * MM, 15 + 15.5 * MM])
    assert clean.fov_radius_mm == pytest.approx(0.48 * 32 * MM)
    assert not inside[0, 0].any()
    for scan in (clean, noisy):
        assert (scan.image[~inside] == -1000.0).all()
        assert not scan.label[~inside].any()
    assert (noisy.image[inside] != -1000.0).all()


def test_field_of_view_is_at_most_that_of_the_paper(jaw):
    assert make_semi_synthetic(jaw, np.diag([8.0, 8.0, 8.0, 1.0]), **CLEAN).fov_radius_mm == 88.0
    narrow = make_semi_synthetic(jaw, HALF_AFFINE, fov_radius_mm=10.0, **CLEAN)
    assert (narrow.fov_radius_mm, narrow.image[5, 16, 25]) == (10.0, -1000.0)


def test_the_cylinder_stands_upright_in_the_world(jaw):
    tilt = np.radians(20.0)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = HALF_AFFINE.copy()
    affine[:3, :3] = turn * MM
    scan = make_semi_synthetic(jaw, affine, fov_radius_mm=20.0)
    seen = FieldOfView(scan.fov_center_mm, 20.0).contains(positions(affine, jaw.shape))
    assert 0.3 < seen.mean() < 0.7
    assert np.mean((scan.image != -1000.0) == seen) > 0.9999


def test_the_head_does_not_depend_on_the_order_of_the_axes(jaw, clean):
    flipped = HALF_AFFINE.copy()
    flipped[:3, 3] = moved(HALF_AFFINE, [31.0, 31.0, 0.0])
    flipped[:3, :2] *= -1.0
    other = make_semi_synthetic(jaw[::-1, ::-1], flipped, **CLEAN)
    assert np.array_equal(other.label[::-1, ::-1], clean.label)
    assert other.fov_center_mm == pytest.approx(clean.fov_center_mm)
    head, same = clean.image > -500.0, other.image[::-1, ::-1] > -500.0
    assert 0.1 < head.mean() < 0.9
    assert np.mean(head == same) > 0.98


def test_other_maps_bring_their_own_tissues(jaw, clean):
    tissues = {20: (2, "bone"), 10: (1, "bone"), 21: (2, "tooth"), 11: (1, "tooth"), 12: (1, "nerve canal")}
    renamed = np.array([0, 20, 10, 21, 11, 12])[jaw]
    other = make_semi_synthetic(renamed, HALF_AFFINE, tissues, **CLEAN)
    assert np.array_equal(other.label, clean.label)
    # what is drawn is the same; the order of the entries does not matter
    assert np.array_equal(other.image, clean.image)


# ---- scanner


def test_everything_is_a_function_of_the_seed(jaw, noisy):
    again, other = (make_semi_synthetic(jaw, HALF_AFFINE, seed=seed) for seed in (1, 2))
    assert np.array_equal(again.image, noisy.image)
    assert not np.array_equal(other.image, noisy.image)
    assert np.array_equal(other.label, noisy.label)


def test_noise_and_artefacts_come_on_top(jaw, clean, inside):
    noise = (make_semi_synthetic(jaw, HALF_AFFINE, artefacts=False).image - clean.image)[inside]
    assert 15.0 < noise.std() < 200.0
    assert abs(noise.mean()) < 10.0
    cupped = (make_semi_synthetic(jaw, HALF_AFFINE, noise=False).image - clean.image)[inside]
    assert cupped.max() < 0.01
    assert cupped.min() < -20.0


def test_streaks_come_from_a_tooth(jaw):
    """Seed 1 has metal, seed 0 has none, and without teeth there is no place for it."""
    toothless = np.where(np.isin(jaw, (3, 4)), 0, jaw)

    def change(label, seed):
        with_artefacts = make_semi_synthetic(label, HALF_AFFINE, seed=seed, noise=False).image
        return with_artefacts - make_semi_synthetic(label, HALF_AFFINE, seed=seed, **CLEAN).image

    assert change(jaw, 0).max() < 0.01
    assert change(toothless, 1).max() < 0.01
    streaks = np.maximum(change(jaw, 1), 0.0)
    i, j, k = np.unravel_index(int(streaks.argmax()), streaks.shape)
    assert streaks.max() > 40.0
    assert 9 <= k <= 25
    assert abs(i - 16) < 7
    assert abs(j - 20) < 7


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"seed": -1}, ValueError, "`seed` must not be negative, got -1"),
        ({"seed": 0.5}, TypeError, "`seed` must be an int, got 0.5"),
        ({"fov_radius_mm": 0.0}, ValueError, "`radius_mm` must be above 0"),
        ({"label": np.full((20, 20, 20), 7)}, ValueError, "holds the value 7, for which `tissues` has no entry"),
    ],
)
def test_messages(arguments, error, message):
    with pytest.raises(error, match=message):
        make_semi_synthetic(**{"label": np.ones((20, 20, 20), np.uint8), "affine": np.eye(4), **arguments})


# ---- files


@pytest.fixture(scope="module")
def map_file(jaw, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "jaw.nii.gz"
    nib.save(nib.Nifti1Image(jaw, np.diag([-MM, -MM, MM, 1.0])), path)
    return path


def contents(directory):
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_written_scans_and_their_datalist(map_file, tmp_path):
    written = write_semi_synthetic(map_file, tmp_path / "set", count=2, seed=5)
    names = {f"{folder}/jaw_{n}.nii.gz" for folder in ("images", "labels") for n in (0, 1)}
    assert set(contents(tmp_path / "set")) == {*names, "datalist.json"}
    first, second = json.loads(written.read_text())["training"]
    assert (first["image"], second["label"]) == ("images/jaw_0.nii.gz", "labels/jaw_1.nii.gz")
    # one anatomy is one patient, or it would be on both sides of a split
    assert first["patient"] == second["patient"] == "jaw"
    assert first["fov"]["axis"] == [0.0, 0.0, 1.0]
    assert first["fov"]["center_mm"] == pytest.approx([-1.6 * 15.5, -1.6 * 15.5, 1.6 * 15.5])
    assert FieldOfView.of_item(first["fov"]).radius_mm == pytest.approx(0.48 * 32 * 1.6)
    image, other, label = (nib.load(written.parent / p) for p in (first["image"], second["image"], first["label"]))
    assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
    assert np.allclose(image.affine, np.diag([-1.6, -1.6, 1.6, 1.0]))
    assert not np.array_equal(np.asarray(image.dataobj), np.asarray(other.dataobj))
    assert [item["patient"] for item in load_datalist(written).training] == ["jaw", "jaw"]


def test_a_smaller_count_gives_the_first_scans_of_a_larger_one(map_file, tmp_path):
    write_semi_synthetic(map_file, tmp_path / "two", count=2)
    write_semi_synthetic(map_file, tmp_path / "one", count=1)
    two, one = contents(tmp_path / "two"), contents(tmp_path / "one")
    assert {name: two[name] for name in one if name != "datalist.json"} == {
        name: digest for name, digest in one.items() if name != "datalist.json"
    }


def test_a_map_of_another_segmenter(map_file, tmp_path):
    renamed, tissues = tmp_path / "jaw.nii.gz", {10: (1, "bone"), 20: (2, "bone"), 30: (2, "tooth")}
    jaw = nib.load(map_file)
    values = np.array([0, 20, 10, 30, 30, 10], np.uint8)[np.asarray(jaw.dataobj)]
    nib.save(nib.Nifti1Image(values, jaw.affine), renamed)
    datalist = write_semi_synthetic(renamed, tmp_path / "set", tissues=tissues)
    label = np.asarray(nib.load(datalist.parent / "labels" / "jaw_0.nii.gz").dataobj)
    assert set(np.unique(label)) == {0, 1, 2}
    assert (label[values == 10] != 2).all()
    assert (label[values >= 20] != 1).all()
    with pytest.raises(ValueError, match=r"jaw\.nii\.gz: `label` holds the value 10, for which"):
        write_semi_synthetic(renamed, tmp_path / "default")


def test_what_cannot_be_written_is_refused(map_file, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"`directory` must be new or empty, got .*full with content"):
        write_semi_synthetic(map_file, tmp_path / "full")
    with pytest.raises(ValueError, match="`count` must be at least 1, got 0"):
        write_semi_synthetic(map_file, tmp_path / "new", count=0)
    with pytest.raises(VolumeError, match="does not exist"):
        write_semi_synthetic(tmp_path / "nothing.nii.gz", tmp_path / "new")
    foreign = tmp_path / "foreign.nii.gz"
    nib.save(nib.Nifti1Image(np.full((20, 20, 20), 44, np.uint8), np.eye(4)), foreign)
    with pytest.raises(ValueError, match=r"foreign\.nii\.gz: `label` holds the value 44"):
        write_semi_synthetic(foreign, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---- a real map


@pytest.mark.skipif(
    not JAW_MAP.is_file(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them"
)
def test_real_jaw():
    """Every third voxel of a real map: both condyles in the field of view, under soft tissue, under bone."""
    source = nib.load(JAW_MAP)
    label = np.asarray(source.dataobj)[::3, ::3, ::3]
    scan = make_semi_synthetic(label, source.affine @ np.diag([3.0, 3.0, 3.0, 1.0]), **CLEAN)
    assert scan.fov_radius_mm == pytest.approx(86.4)
    for i, j, k in ((89, 221, 195), (279, 224, 192)):
        column = scan.label[i // 3, j // 3]
        top = k // 3 + int(np.flatnonzero(column[k // 3 :] == 1).max())
        fossa = top + int(np.flatnonzero(column[top:] == 2).min())
        assert column[k // 3] == 1
        assert 1 <= fossa - top <= 4
        assert scan.image[i // 3, j // 3, k // 3] > 250.0
    assert 1200.0 < np.percentile(scan.image[scan.label > 0], 99) <= 2500.0
    soft = (scan.image > -120.0) & (scan.image < 80.0)
    assert 0.25 < soft.mean() < 0.7
    assert (scan.image == -1000.0).mean() > 0.2
