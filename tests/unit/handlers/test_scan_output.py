import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from bertswin_ext.deployment import ScanAttempt, ScanJoint, ScanLabels
from bertswin_ext.handlers import ScanOutputHandler
from bertswin_ext.networks.record import AdaptationRecord

AFFINE = np.diag([-0.5, -0.5, 1.0, 1.0])


class Program:
    """What the handler asks of an exported network."""

    path, sha256 = "model.ts", "0" * 64
    record = AdaptationRecord(
        "BertsWinSegmenter", {}, "RAS", (0.5, 0.5, 1.0), labels=("background", "mandible", "skull")
    )


def attempt(name="head", error=None, image="head.nii.gz", **values):
    item = {"image": image, "name": name}
    if error is not None:
        return ScanAttempt(item, error=error)
    stored = torch.zeros(1, 40, 36, 24, dtype=torch.uint8)
    stored[:, 10:30, 10:26, 3:9] = 1
    stored[:, 6:34, 6:30, 13:20] = 2
    turned = np.diag([0.5, 0.5, 1.0, 1.0])
    turned[:2, 3] = [-0.5 * 39, -0.5 * 35]
    scan = MetaTensor(stored.flip(1, 2).float() * 900 - 1000, affine=torch.from_numpy(turned))
    labels = ScanLabels(
        scan,
        label=MetaTensor(stored.flip(1, 2), affine=torch.from_numpy(turned)),
        stored=MetaTensor(stored, affine=torch.from_numpy(AFFINE)),
        joints=[ScanJoint("right", (-10.0, -9.0, 11.0), 0.9)],
        boxes_mm=[(20.0, 18.0, 24.0)],
    )
    return ScanAttempt(item, labels, seconds={"load": 1.0, "network": 2.0}, **values)


def written(folder, *attempts, **arguments):
    handler = ScanOutputHandler(folder, Program(), **arguments)
    engine = Engine(lambda engine, item: item)
    handler.attach(engine)
    engine.run(list(attempts))
    return folder


def report_of(folder, name="head"):
    return json.loads((folder / name / "report.json").read_text())


def test_every_file_of_a_scan(tmp_path):
    written(tmp_path, attempt(), surfaces=["stl", "ply"])
    files = {path.name for path in (tmp_path / "head").iterdir()}
    surfaces = {"mandible.stl", "mandible.ply", "skull.stl", "skull.ply"}
    assert files == {"label.nii.gz", "preview.png", "report.json"} | surfaces
    assert set(report_of(tmp_path)["files"].values()) == files - {"report.json"}


def test_the_label_is_that_of_the_file(tmp_path):
    written(tmp_path, attempt(), previews=False)
    label = nib.load(tmp_path / "head" / "label.nii.gz")
    assert np.array_equal(label.affine, AFFINE)
    assert label.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(label.dataobj), attempt().labels.stored.numpy()[0])


def test_measures_are_reported(tmp_path):
    report = report_of(written(tmp_path, attempt(), previews=False))
    assert report["volumes_ml"] == {"mandible": 20 * 16 * 6 / 4000, "skull": 28 * 24 * 7 / 4000}
    (joint,) = report["joints"]
    assert joint["center_origin"] == "found"
    assert joint["box_mm"] == [20.0, 18.0, 24.0]
    # four voxels of 1 mm lie between the bones
    assert joint["joint_space_mm"] == pytest.approx(4.0, abs=0.5)
    assert report["weights"]["sha256"] == "0" * 64
    assert report["geometry"]["axes"] == "LPS"
    assert set(report["seconds"]) == {"load", "network", "write", "total"}


def test_a_failed_scan_is_reported_and_named_at_the_end(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 2 scans were not segmented[^:]*:\n  - torn: torn\.nii\.gz: cut off"):
        written(tmp_path, attempt("torn", error="torn.nii.gz: cut off."), attempt(), previews=False)
    assert report_of(tmp_path, "torn")["status"] == "failed"
    assert report_of(tmp_path)["status"] == "completed"
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [(row["scan"], row["status"], row["joint"]) for row in rows] == [
        ("torn", "failed", ""),
        ("head", "completed", "right"),
    ]


def test_a_scan_that_cannot_be_written_has_failed(tmp_path):
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "label.nii.gz").mkdir()
    with pytest.raises(ValueError, match="1 of 1 scans were not segmented"):
        written(tmp_path, attempt(), previews=False)
    assert report_of(tmp_path)["status"] == "failed"


def test_dicom_seg_is_for_dicom(tmp_path):
    written(tmp_path, attempt(), previews=False, dicom_seg="always")
    assert "dicom_seg" not in report_of(tmp_path)["files"]


def test_a_series_that_is_none_gives_a_warning_or_a_fault(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (series / "a.dcm").write_bytes(b"not DICOM")
    written(tmp_path / "auto", attempt(image=str(series)), previews=False)
    report = report_of(tmp_path / "auto")
    assert report["files"]["dicom_seg"] is None
    assert any("no DICOM SEG" in warning for warning in report["warnings"])
    with pytest.raises(ValueError, match="1 of 1 scans were not segmented"):
        written(tmp_path / "always", attempt(image=str(series)), previews=False, dicom_seg="always")


def test_a_class_that_is_absent_has_no_surface(tmp_path):
    without = attempt()
    without.labels.label[without.labels.label == 1] = 0
    report = report_of(written(tmp_path, without, surfaces=["stl"], previews=False))
    assert report["files"]["mandible_stl"] is None
    assert report["files"]["skull_stl"] == "skull.stl"
    assert report["joints"][0]["joint_space_missing_because"].startswith("no mandible")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"surfaces": ["obj"]}, "`surfaces` must be of 'stl', 'ply'"),
        ({"surfaces": "stl"}, "`surfaces`"),
        ({"dicom_seg": "yes"}, "`dicom_seg` must be of 'auto'"),
    ],
)
def test_what_it_does_not_know_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ScanOutputHandler(tmp_path, Program(), **arguments)


def test_a_program_must_name_its_classes(tmp_path):
    program = Program()
    program.record = AdaptationRecord("BertsWinMAE", {}, "RAS", (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"model\.ts does not name its classes"):
        ScanOutputHandler(tmp_path, program)


def test_nothing_of_an_earlier_run_stays_beside_a_new_report(tmp_path):
    written(tmp_path, attempt(), surfaces=["stl"])
    with pytest.raises(ValueError, match="1 of 1 scans were not segmented"):
        written(tmp_path, attempt(error="head.nii.gz: no joint found."))
    assert [path.name for path in (tmp_path / "head").iterdir()] == ["report.json"]


def test_another_scan_of_the_same_name_gets_a_folder_of_its_own(tmp_path):
    written(tmp_path, attempt(image="a/head.nii.gz"), previews=False)
    written(tmp_path, attempt(image="b/head.nii.gz"), previews=False)
    assert report_of(tmp_path)["inputs"] == ["a/head.nii.gz"]
    assert report_of(tmp_path, "head_2")["inputs"] == ["b/head.nii.gz"]
    assert report_of(tmp_path, "head_2")["scan"] == "head_2"
    written(tmp_path, attempt(image="b/head.nii.gz"), previews=False)
    assert not (tmp_path / "head_3").exists()


def test_the_table_is_there_as_soon_as_a_scan_is_done(tmp_path):
    engine = Engine(lambda engine, item: item)
    ScanOutputHandler(tmp_path, Program(), previews=False).attach(engine)

    def items():
        yield attempt()
        assert len((tmp_path / "summary.csv").read_text().splitlines()) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run(items(), epoch_length=2)
    assert "head,completed,right" in (tmp_path / "summary.csv").read_text()


def test_a_scan_of_an_archive_is_reported_as_the_user_knows_it(tmp_path):
    unpacked = attempt(image="unpacked/scan/series")
    unpacked.item["archive"] = "scan.zip:series"
    with unpacked.guarded():
        raise ValueError("unpacked/scan/series: slices are missing.")
    assert unpacked.error == "scan.zip:series: slices are missing."
    unpacked.error = None
    report = report_of(written(tmp_path, unpacked, previews=False))
    assert report["inputs"] == ["scan.zip:series"]


def test_a_program_for_another_hu_scale_is_refused(tmp_path):
    program = Program()
    program.record = replace(Program.record, mean_hu=0.0)
    with pytest.raises(ValueError, match=r"in the record of model\.ts:\n  - mean_hu: the encoder learnt with 0 HU"):
        ScanOutputHandler(tmp_path, program)
