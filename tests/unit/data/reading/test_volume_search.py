"""Volumes in a folder: found with their patients; labels left out, and said so."""

import logging

import pytest

from bertswin_ext.data.reading.volume_search import find_volumes


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM" if name.endswith("DICM") else b"x" * 200)


def found(folder):
    return {path.relative_to(folder).as_posix(): patient for path, patient in find_volumes(folder)}


def test_every_kind_is_found_at_any_depth(tmp_path):
    touch(tmp_path, "a.nii", "b.nii.gz", "c.NRRD", "d.nhdr", "d.raw", "e/f/g.mha", "e/h.mhd")
    touch(tmp_path, "i/dcm/1.dcm", "i/dcm/2.dcm", "j/CT.1.2.DICM", "readme.txt", "k/notes.md")
    assert found(tmp_path) == {
        "a.nii": "a",
        "b.nii.gz": "b",
        "c.NRRD": "c",
        "d.nhdr": "d",
        "e/f/g.mha": "e",
        "e/h.mhd": "e",
        "i/dcm": "i",
        "j": "j",
    }


def test_the_folder_itself_may_be_a_series(tmp_path):
    touch(tmp_path / "scan", "1.dcm", "2.dcm")
    assert find_volumes(tmp_path / "scan") == [(tmp_path / "scan", "scan")]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sub-01_ct.nii.gz", "sub-01"),
        ("sub-01/ses-2/anat/sub-01_ses-2_ct.nii.gz", "sub-01"),
        ("rawdata/sub-02/ct.nii.gz", "sub-02"),
        ("imagesTr/case_001_0000.nii.gz", "case_001_0000"),
        ("images/x/a.nii.gz", "x"),
        ("s0001/ct.nii.gz", "s0001"),
        ("images_of_mary/1.nii.gz", "images_of_mary"),
    ],
)
def test_the_patient(tmp_path, name, patient):
    touch(tmp_path, name)
    assert found(tmp_path) == {name: patient}


LABELS = [
    "labelsTr/case.nii.gz",
    "s1/segmentations/mandible.nii.gz",
    "Masks/a.mha",
    "a_label.nii.gz",
    "a_labels.nrrd",
    "a_seg.nii",
    "a_mask.nii.gz",
    "a-label.nrrd",
    "a.seg.nrrd",
    "A_Seg_dicom.nii.gz",
    "Segmentation.nii.gz",
]


def test_labels_are_left_out_and_logged(tmp_path, caplog):
    touch(tmp_path, "a.nii.gz", "unmasked.nii.gz", "segall.nii.gz", *LABELS)
    with caplog.at_level(logging.INFO, logger="bertswin_ext"):
        assert set(found(tmp_path)) == {"a.nii.gz", "unmasked.nii.gz", "segall.nii.gz"}
    for name in LABELS:
        reason = "folder" if "/" in name else "name"
        assert f"skipped {tmp_path / name}: label (by its {reason})" in caplog.messages
    assert caplog.messages[-1] == f"{tmp_path}: skipped {len(LABELS)} files that look like labels"
    assert caplog.records[-1].levelname == "WARNING"


def test_other_files_are_logged(tmp_path, caplog):
    touch(tmp_path, "a.nii.gz", "._a.nii.gz", "notes.txt")
    with caplog.at_level(logging.INFO, logger="bertswin_ext"):
        assert set(found(tmp_path)) == {"a.nii.gz"}
    assert set(caplog.messages) == {
        f"skipped {tmp_path / '._a.nii.gz'}: hidden file",
        f"skipped {tmp_path / 'notes.txt'}: not a volume",
    }


def test_linked_folders_are_followed_and_rings_are_not(tmp_path):
    touch(tmp_path / "store", "x/a.nii")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "ring").symlink_to(tmp_path / "store")
    assert found(tmp_path / "data") == {"linked/x/a.nii": "linked"}


def test_a_broken_link_is_not_dropped_in_silence(tmp_path):
    (tmp_path / "a.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    assert set(found(tmp_path)) == {"a.nii"}


def test_an_empty_folder(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match="holds no volumes") as caught:
        find_volumes(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no volumes. Looked for .nii, .nii.gz, .nrrd, .nhdr, .mha, .mhd and folders with DICOM files "
        "(.dcm, or 'DICM' at byte 128), and left out labels; the log names every skipped file."
    )


def test_dicom_segmentations_are_labels(tmp_path, caplog):
    touch(tmp_path, "a/1.dcm")
    for name in ("a/label.dcm", "out/a/label.dcm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        kind = b"\x02\0\x02\0UI\x1c\0" + b"1.2.840.10008.5.1.4.1.1.66.4"
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + kind)
    with caplog.at_level(logging.INFO, logger="bertswin_ext"):
        assert found(tmp_path) == {"a": "a"}
    assert f"skipped {tmp_path / 'out/a/label.dcm'}: label (a DICOM segmentation)" in caplog.messages
