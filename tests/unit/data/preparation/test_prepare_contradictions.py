"""What a datalist, landmarks or label maps say against a scan refuses it alone; odd names and places do not."""

import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data.preparation import scan_preparation
from tests.unit.data.preparation.raw_scans import (
    SIZE,
    command,
    contents,
    hu_of,
    item_of,
    items_of,
    phantom,
    records_of,
    status_of,
    write_csv,
    write_list,
    write_nifti,
    write_phantom,
)

GOOD = phantom(1)


def refused_beside_a_good_one(tmp_path, capsys, *flags, source=None, bad="bad.nii"):
    """Run it; the reasons of the bad scan, and the good one must be there."""
    write_phantom(tmp_path / "raw" / "good.nii", GOOD)
    assert status_of(command(source or tmp_path / "raw", tmp_path / "store", *flags)) == 1
    assert "1 of 2 scans were refused, see the report." in capsys.readouterr().out
    assert [item["source"] for item in items_of(tmp_path / "store")] == ["good.nii"]
    record = records_of(tmp_path / "store")[bad]
    assert record["verdict"] == "refused"
    return " ".join(record["reasons"])


def with_item(tmp_path, **entries):
    """A datalist of a good scan and a bad one."""
    write_phantom(tmp_path / "raw" / "bad.nii")
    write_phantom(tmp_path / "raw" / "good.nii", GOOD)
    return write_list(tmp_path / "raw" / "datalist.json", item_of("good.nii", GOOD), item_of("bad.nii") | entries)


def test_a_centre_outside_the_scan(tmp_path, capsys, quick):
    x, y, z = phantom().joint_center_mm
    with_item(tmp_path, center_mm=[-x, -y, z])  # LPS
    assert "bad.nii: the right joint (datalist) at RAS (" in (said := refused_beside_a_good_one(tmp_path, capsys))
    assert "lies outside the scan, which reaches from RAS (" in said
    assert "Are the coordinates LPS, or of another scan?" in said


def test_a_centre_outside_the_field_of_view(tmp_path, capsys, quick):
    with_item(tmp_path, fov={"center_mm": [0.0, 0.0, 0.0], "radius_mm": 40.0})
    assert "lies outside the field of view" in refused_beside_a_good_one(tmp_path, capsys)


def test_no_centre(tmp_path, capsys, quick):
    write_phantom(tmp_path / "raw" / "bad.nii")
    csv = write_csv(tmp_path / "j.csv", good=GOOD)
    said = refused_beside_a_good_one(tmp_path, capsys, "--landmarks", csv)
    assert "bad.nii: where a joint lies is not known. Give --landmarks or --labels" in said


def test_contradictory_landmarks(tmp_path, capsys, quick):
    write_phantom(tmp_path / "raw" / "bad.nii")
    csv = write_csv(tmp_path / "j.csv", **{"good": GOOD, "bad": phantom(), "bad.nii": phantom(2)})
    said = refused_beside_a_good_one(tmp_path, capsys, "--landmarks", csv)
    assert "the right joint is marked by line 3 of j.csv and by line 4 of j.csv. Keep one of them." in said


def test_a_landmark_that_fits_two_scans(tmp_path, capsys, quick):
    """Neither gets it: it would be wrong for one of them."""
    for patient in ("p1", "p2"):
        write_phantom(tmp_path / "raw" / patient / "ct.nii")
    write_phantom(tmp_path / "raw" / "good.nii", GOOD)
    csv = write_csv(tmp_path / "j.csv", ct=phantom(), good=GOOD)
    assert status_of(command(tmp_path / "raw", tmp_path / "store", "--landmarks", csv)) == 1
    assert [item["source"] for item in items_of(tmp_path / "store")] == ["good.nii"]
    for patient in ("p1", "p2"):
        assert "fits 2 scans" in records_of(tmp_path / "store")[f"{patient}/ct.nii"]["reasons"][0]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (phantom().label[:-1], "the label map is not on the grid of its scan"),
        (phantom().label * 5, "holds neither mandible [1] nor skull [2], only [0, 5, 10]. Say which values they are"),
        (phantom().label // 2 * 2, "it shows no mandible (label 1)"),
        (phantom().label.astype(np.float32) * np.nan, "holds neither mandible [1] nor skull [2]"),
        (phantom().label, "it shows one condyle, of a side that is unknown"),
    ],
)
def test_label_maps(tmp_path, capsys, quick, label, said):
    write_phantom(tmp_path / "raw" / "bad.nii")
    write_nifti(tmp_path / "labels" / "bad.nii", label, phantom().affine)
    csv = write_csv(tmp_path / "j.csv", good=GOOD)
    reasons = refused_beside_a_good_one(tmp_path, capsys, "--landmarks", csv, "--labels", tmp_path / "labels")
    assert said in reasons


def test_a_scan_that_is_its_own_label_map(tmp_path, capsys, quick):
    with_item(tmp_path, label="bad.nii")
    assert "bad.nii: is scan and label map at once" in refused_beside_a_good_one(tmp_path, capsys)


def test_several_label_maps(tmp_path, capsys, quick):
    write_phantom(tmp_path / "raw" / "bad.nii")
    for name in ("bad_1.nii", "bad_2.nii"):
        write_nifti(tmp_path / "labels" / name, phantom().label, phantom().affine)
    csv = write_csv(tmp_path / "j.csv", good=GOOD, bad=phantom())
    said = refused_beside_a_good_one(tmp_path, capsys, "--landmarks", csv, "--labels", tmp_path / "labels")
    assert "labels holds several label maps of bad.nii: bad_1.nii, bad_2.nii" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path, capsys, quick):
    with_item(tmp_path)
    (tmp_path / "raw" / "bad.nii").chmod(0)
    assert "Permission denied" in refused_beside_a_good_one(tmp_path, capsys)


def test_a_file_that_vanishes_or_cannot_be_read(tmp_path, capsys, quick, monkeypatch):
    """As an unreadable file, for root: nothing about it can be learnt before it is read."""
    with_item(tmp_path)
    module = sys.modules["bertswin_ext.data.preparation.prepare"]
    original = module.source_files

    def deny(path):
        if path.name == "bad.nii":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    read = scan_preparation.read_volume
    monkeypatch.setattr(module, "source_files", deny)
    monkeypatch.setattr(scan_preparation, "read_volume", lambda path: (deny(path), read(path))[1])
    assert "bad.nii: PermissionError: [Errno 13] Permission denied" in refused_beside_a_good_one(tmp_path, capsys)


def test_an_unexpected_error_is_named(tmp_path, capsys, quick, monkeypatch):
    with_item(tmp_path)
    read = scan_preparation.read_volume

    def fail(path):
        return read(path) if path.name == "good.nii" else {}["0020|0032"]

    monkeypatch.setattr(scan_preparation, "read_volume", fail)
    assert "bad.nii: KeyError: '0020|0032'" in refused_beside_a_good_one(tmp_path, capsys)


# --- not refused, but said ---


def test_notices(tmp_path, quick):
    """Crops beyond the scan and beyond the field of view, and a header without an orientation."""
    x, y, _ = phantom().joint_center_mm
    raw = tmp_path / "raw"
    for name in ("edge", "rim"):
        write_phantom(raw / f"{name}.nii")
    image = nib.Nifti1Image(hu_of(phantom()), None)
    image.header.set_zooms((1.6, 1.6, 1.6))
    nib.save(image, raw / "plain.nii")
    last = (phantom().affine @ [0, 0, SIZE - 4, 1])[2]
    write_list(
        raw / "datalist.json",
        item_of("edge.nii") | {"center_mm": [x, y, last]},
        item_of("rim.nii", fov={"center_mm": [0.0, y, 0.0], "radius_mm": x + 5.0}),
        item_of("plain.nii") | {"center_mm": [0.0, 0.0, 0.0]},
    )
    assert status_of(command(raw, tmp_path / "store")) == 0
    records = records_of(tmp_path / "store")
    assert {record["verdict"] for record in records.values()} == {"notice"}
    assert records["edge.nii"]["reasons"] == [
        "The scan ends 5.6 mm beside the right joint; crops will show its outside."
    ]
    assert records["edge.nii"]["items"][0]["size"] == [24, 24, 12 + 4]
    [said] = records["rim.nii"]["reasons"]
    assert said == "The field of view ends 5.0 mm beside the right joint; crops will show its outside."
    assert "plain.nii: the header has no orientation" in records["plain.nii"]["reasons"][0]


# --- odd names and places ---


def test_odd_names(tmp_path, quick):
    """Names that differ in odd characters only, or are no text, or look like flags, formulas and patterns."""
    raw = tmp_path / "raw x"
    names = [
        "a b",
        "a_b",
        "a?b",
        "\u60a3\u8005",
        "\u60a3\u4eba",
        "J\u00fcrgen's [1]",
        "-rf",
        "=1+1",
        "caf\udce9",
        "n" * 200,
    ]
    for number, name in enumerate(names):
        write_phantom(raw / f"{name}.nii", phantom(number % 3))
    write_list(raw / "datalist.json", *[item_of(f"{n}.nii", phantom(i % 3)) for i, n in enumerate(names)])
    assert status_of(command(raw, tmp_path / "store \u00e9")) == 0
    items = items_of(tmp_path / "store \u00e9")
    assert len({item["image"] for item in items}) == len({item["source"] for item in items}) == len(names)
    assert {item["source"] for item in items} == {f"{name}.nii" for name in names}
    assert status_of(command(raw, tmp_path / "store \u00e9")) == 0


def test_the_store_lies_in_the_input(tmp_path, quick, monkeypatch):
    """Its volumes are no scans of the next run, wherever it is seen from."""
    monkeypatch.chdir(tmp_path)
    for scan in ("p/a.nii", "p/b.nii"):
        write_phantom(tmp_path / "raw" / scan)
    (tmp_path / "raw" / "p" / "up").symlink_to(tmp_path / "raw")
    csv = write_csv(tmp_path / "j.csv", a=phantom(), b=phantom())
    for store in ("raw/store", "raw/store", "raw/p/another"):
        assert status_of(command("raw", store, "--landmarks", "j.csv")) == 0
        assert [item["source"] for item in items_of(tmp_path / store)] == ["p/a.nii", "p/b.nii"]
        assert {item["patient"] for item in items_of(tmp_path / store)} == {"p"}
    assert csv.is_file()


@pytest.mark.parametrize("source", ["store", "store/datalist.json", "link", "outside.json"])
def test_a_store_is_not_prepared_from_itself(tmp_path, quick, capsys, source):
    write_list(tmp_path / "list.json", item_of("a.nii"))
    write_phantom(tmp_path / "a.nii")
    assert status_of(command(tmp_path / "list.json", tmp_path / "store")) == 0
    (tmp_path / "link").symlink_to(tmp_path / "store")
    [item] = items_of(tmp_path / "store")
    write_list(tmp_path / "outside.json", item_of(f"store/{item['image']}"))
    before = contents(tmp_path / "store")
    assert status_of(command(tmp_path / source, tmp_path / "store")) == 2
    assert "`input` and `output` must not be the same" in capsys.readouterr().err
    assert contents(tmp_path / "store") == before


def test_a_store_of_something_else_is_left_alone(tmp_path, quick, capsys):
    """An import, whose volumes `prepare` does not know."""
    write_phantom(tmp_path / "raw" / "a.nii")
    (tmp_path / "store").mkdir()
    imported = {"prepared": {"source": "tmj.h5"}, "training": []}
    (tmp_path / "store" / "datalist.json").write_text(json.dumps(imported))
    before = contents(tmp_path / "store")
    assert status_of(command(tmp_path / "raw", tmp_path / "store", "--whole_volume")) == 2
    assert "holds the import of tmj.h5. Give a new or empty folder." in capsys.readouterr().err
    assert contents(tmp_path / "store") == before
