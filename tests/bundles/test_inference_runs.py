"""Scans in, folders out: the documented commands of `inference.json`, with what ships and with small networks."""

import csv
import json
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch

from bertswin_ext.data import write_phantoms
from bertswin_ext.networks import AdaptationRecord, bertswin_segmenter_tiny
from bertswin_ext.programs import export_program
from tests.bundles.conftest import REPOSITORY, run

pytestmark = pytest.mark.bundle

CONFIG = REPOSITORY / "bundles" / "inference" / "configs" / "inference.json"
CLASSES = ("background", "mandible", "skull")
SMALL = {"surfaces": "[]", "previews": False}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A network that has learnt nothing, exported."""
    torch.manual_seed(0)
    network = bertswin_segmenter_tiny(img_size=24, patch_size=8, out_channels=3)
    path = tmp_path_factory.mktemp("program") / "small.ts"
    export_program(network, AdaptationRecord.of(network, 1.6, labels=CLASSES), path)
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two oblique phantoms without a word about their joints, and a datalist that has one."""
    folder = tmp_path_factory.mktemp("scans")
    options = {"spacing_mm": (0.6, 0.7, 0.65), "oblique_deg": 12, "seed": 2000}
    datalist = write_phantoms(folder / "phantoms", count=2, size=(80, 72, 76), **options)
    items = [
        item for section in ("training", "validation") for item in json.loads(datalist.read_text()).get(section, [])
    ]
    return folder / "phantoms", items


def infer(source, output, check=True, cwd=None, **knobs):
    """Run inference.json on a source."""
    options = {"input": source, "output_dir": output} | knobs
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return run([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIG), *flags], cwd, check)


def series_of(folder, step):
    """An axial DICOM series."""
    pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")
    from tests.unit.outputs.clinic import write_clinic_series

    return write_clinic_series(folder, (1, 0, 0), (0, 1, 0), (0, 0, step), size=(40, 36), count=30)


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


def joints_of(item):
    return str({item["joint"]: item["center_mm"]})


def dice(label, reference, class_id):
    ours, theirs = label == class_id, reference == class_id
    return 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())


def test_what_ships_segments_a_phantom_that_it_has_never_seen(tmp_path):
    """The first command of the card, without any argument but the folder."""
    run([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIG), "--output_dir", str(tmp_path)])
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    files = {path.name for path in folder.iterdir()}
    assert files == {"label.nii.gz", "preview.png", "mandible.stl", "skull.stl", "report.json"}
    report = report_of(folder)
    assert report["status"] == "completed"
    (joint,) = report["joints"]
    assert joint["center_origin"] == "found"
    (phantoms,) = (REPOSITORY / "bundles/inference/data").glob("phantoms*seed-1000*")
    known = json.loads((phantoms / "datalist.json").read_text())
    (item,) = [item for section in ("training", "validation") for item in known.get(section, [])]
    assert joint["joint"] == item["joint"]
    assert np.linalg.norm(np.subtract(joint["center_mm"], item["center_mm"])) < 10
    label, reference = nib.load(folder / "label.nii.gz"), nib.load(phantoms / item["label"])
    assert label.shape == reference.shape
    assert np.allclose(label.affine, reference.affine, atol=1e-5)
    ours = np.asarray(label.dataobj)
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(ours))
    assert dice(ours[box], np.asarray(reference.dataobj)[box], 1) > 0.8
    assert dice(ours[box], np.asarray(reference.dataobj)[box], 2) > 0.8
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [(row["scan"], row["status"], row["joint"]) for row in rows] == [(folder.name, "completed", item["joint"])]


def test_a_datalist_names_the_joints(scans, program, tmp_path):
    folder, items = scans
    infer(folder / "datalist.json", tmp_path, program_path=program, **SMALL)
    for item in items:
        name = item["image"].removesuffix(".nii.gz")
        report = report_of(tmp_path / name)
        assert [(j["joint"], j["center_origin"]) for j in report["joints"]] == [(item["joint"], "given")]
        label, scan = nib.load(tmp_path / name / "label.nii.gz"), nib.load(folder / item["image"])
        assert label.shape == scan.shape
        assert np.allclose(label.affine, scan.affine, atol=1e-5)


def test_a_faulty_scan_does_not_end_the_run(scans, program, tmp_path):
    folder, items = scans
    sources = tmp_path / "in"
    sources.mkdir()
    whole = (folder / items[0]["image"]).read_bytes()
    (sources / "a_torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    (sources / "b_whole.nii.gz").write_bytes(whole)
    result = infer(sources, tmp_path / "out", check=False, program_path=program, find_joints=False, **SMALL)
    assert result.returncode != 0
    assert "1 of 2 scans were not segmented" in result.stderr
    assert "a_torn.nii.gz: the file cannot be read" in report_of(tmp_path / "out" / "a_torn")["error"]
    assert report_of(tmp_path / "out" / "b_whole")["status"] == "completed"


def test_a_series_gives_dicom_seg_that_lies_where_the_label_does(program, tmp_path):
    series = series_of(tmp_path / "series", -1.2)
    import highdicom

    infer(series, tmp_path / "out", program_path=program, find_joints=False, **SMALL)
    folder = tmp_path / "out" / "series"
    report = report_of(folder)
    assert report["files"]["dicom_seg"] == "label.dcm"
    label = nib.load(folder / "label.nii.gz")
    segmentation = highdicom.seg.segread(folder / "label.dcm")
    counts = {number: int((np.asarray(label.dataobj) == number).sum()) for number in (1, 2)}
    names = {segment.segment_number: segment.SegmentLabel for segment in segmentation.SegmentSequence}
    volume = segmentation.get_volume(combine_segments=True)
    assert {number: int((volume.array == number).sum()) for number in names} == {
        number: counts[number] for number in names
    }


def test_a_zipped_series_is_unpacked_and_nothing_is_left(program, tmp_path, monkeypatch):
    series = series_of(tmp_path / "series", 1.2)
    with zipfile.ZipFile(tmp_path / "patient.zip", "w") as archive:
        for path in sorted(series.iterdir()):
            archive.write(path, f"series/{path.name}")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    infer(tmp_path / "patient.zip", tmp_path / "out", program_path=program, find_joints=False, **SMALL)
    (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert (folder / "label.nii.gz").is_file()
    assert not [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("bertswin")]


def test_places_are_given_on_the_command_line_from_anywhere(scans, program, tmp_path):
    folder, items = scans
    infer(folder / items[1]["image"], "out", cwd=tmp_path, program_path=program, joints=joints_of(items[1]), **SMALL)
    (report,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/report.json"))
    assert report["joints"][0]["center_mm"] == pytest.approx(items[1]["center_mm"])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"program_path": "nowhere.ts"}, "nowhere.ts does not exist"),
        ({"program_path": "model.pt"}, "a program ends in .ts"),
        ({"input": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist"),
        ({"surfaces": "['obj']"}, "`surfaces` must be of"),
        ({"regoin_mm": 60}, "Did you mean 'region_mm'?"),
        ({"joints": "{'up': [0, 0, 0]}"}, 'a joint must be "left" or "right", got \'up\''),
    ],
)
def test_what_cannot_be_done_is_said(scans, program, tmp_path, knobs, message):
    folder, items = scans
    options = {"program_path": program, "input": folder / items[0]["image"], **SMALL, **knobs}
    source = options.pop("input")
    result = infer(source, tmp_path / "out", check=False, cwd=tmp_path, **options)
    assert result.returncode != 0
    assert message in result.stderr
