"""Which label map belongs to which scan."""

from pathlib import Path

import pytest

from bertswin_ext.data.preparation.label_maps import LabelMaps


def maps_of(folder, scans, *labels):
    for label in labels:
        (folder / "labels" / label).parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels" / label).touch()
    return {scan: LabelMaps(folder / "labels", scans).of(scan, folder / "scans" / scan) for scan in scans}


def names(folder, found):
    return {scan: label and label.relative_to(folder / "labels").as_posix() for scan, label in found.items()}


@pytest.mark.parametrize(
    "label", ["a.nii", "a.nii.gz", "a.nrrd", "a_seg.mha", "a-label.nii", "a.mandible.nii.gz", "a 2.nhdr"]
)
def test_by_name(tmp_path, label):
    found = maps_of(tmp_path, ["a.nii.gz"], label, "ab.nii", "b_a.nii", "a.txt", "a_seg.json")
    assert names(tmp_path, found) == {"a.nii.gz": label}


def test_the_same_name_comes_first(tmp_path):
    assert names(tmp_path, maps_of(tmp_path, ["a.nii"], "a.nrrd", "a_seg.nii")) == {"a.nii": "a.nrrd"}


def test_by_place_then_in_the_folder_itself(tmp_path):
    found = maps_of(tmp_path, ["p1/ct.nii", "p2/mr.nii", "p3/series"], "p1/ct.nii", "mr_seg.nii", "p3/series.nrrd")
    assert names(tmp_path, found) == {
        "p1/ct.nii": "p1/ct.nii",
        "p2/mr.nii": "mr_seg.nii",
        "p3/series": "p3/series.nrrd",
    }


def test_a_longer_name_takes_its_own(tmp_path):
    """The label map of a_2 must not become that of a."""
    assert names(tmp_path, maps_of(tmp_path, ["a.nii", "a_2.nii"], "a_2.nii")) == {"a.nii": None, "a_2.nii": "a_2.nii"}
    found = maps_of(tmp_path, ["a.nii", "a_2.nii"], "a_2_seg.nrrd", "a_seg.nii")
    assert names(tmp_path, found) == {"a.nii": "a_seg.nii", "a_2.nii": "a_2.nii"}


def test_label_maps_beside_their_scans(tmp_path):
    """No scan is a label map, its own least of all."""
    for name in ("a.nii", "a-2.nii", "a_seg.nii", "a-2_seg.nii"):
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        maps = LabelMaps(folder, ["a.nii", "a-2.nii"])
        assert maps.of("a.nii", tmp_path / "a.nii") == folder / "a_seg.nii"
        assert maps.of("a-2.nii", tmp_path / "a-2.nii") == folder / "a-2_seg.nii"


def test_a_relative_folder(tmp_path, monkeypatch):
    maps_of(tmp_path, ["a.nii"], "a.nii")
    monkeypatch.chdir(tmp_path)
    assert LabelMaps("labels", ["a.nii"]).of("a.nii", Path("a.nii")) == tmp_path / "labels" / "a.nii"


def test_several_fit(tmp_path):
    with pytest.raises(
        ValueError, match=r"labels holds several label maps of a\.nii: a_left\.nii, a_right\.nii\. Leave one"
    ):
        maps_of(tmp_path, ["a.nii"], "a_left.nii", "a_right.nii")


@pytest.mark.parametrize("scans", [["p1/ct.nii", "p2/ct.nii"], ["ct.nii", "ct.nrrd"]])
def test_one_fits_several_scans(tmp_path, scans):
    for scan in scans:
        with pytest.raises(ValueError, match=f"ct.nii fits {scan} and .*Tell them apart by the folders"):
            maps_of(tmp_path, [scan, *scans], "ct.nii")


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match=r"`labels` .*nowhere is not a folder\. Give the folder"):
        LabelMaps(tmp_path / "nowhere", [])
