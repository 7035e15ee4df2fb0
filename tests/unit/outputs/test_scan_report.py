"""The report of a scan, read back from its file."""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

import bertswin_ext
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.scan_report import DISCLAIMER, ScanReport, peak_memory_mb, scan_geometry

RECORD = AdaptationRecord("BertsWinSegmenter", {"size": "tiny"}, "RAS", (0.4, 0.4, 0.4), labels=("background", "skull"))


def full_report(folder):
    return ScanReport(
        "P1",
        [Path("/data/P1.nii.gz")],
        geometry=scan_geometry((4, 5, 6), np.diag([-0.4, -0.4, 0.5, 1.0])),
        volumes_ml={"mandible": np.float64(12.345678), "skull": 0.0},
        joints=[JointReport("left", (-50.0, 1.0, 2.0)), JointReport("right", (50.0, 1.0, 2.0), 0.8)],
        files={"label": folder / "label.nii.gz", "mandible": None, "table": "/elsewhere/summary.csv"},
        weights_file="models/model.ts",
        weights_sha256="ab" * 32,
        record=RECORD,
        seconds={"load": 0.12345, "network": 2.0},
        warnings=["The mandible is small."],
    )


def test_what_the_file_says(tmp_path):
    report = full_report(tmp_path / "P1")
    written = report.write(tmp_path / "P1" / "report.json")
    found = json.loads((tmp_path / "P1" / "report.json").read_text(encoding="utf-8"))
    assert found == written
    assert found["notice"] == DISCLAIMER == "Research only. Not a medical device."
    assert (found["scan"], found["status"], found["error"]) == ("P1", "completed", None)
    assert found["inputs"] == ["/data/P1.nii.gz"]
    assert found["geometry"]["axes"] == "LPS"
    assert found["geometry"]["spacing_mm"] == [0.4, 0.4, 0.5]
    assert found["geometry"]["affine"][0] == [-0.4, 0, 0, 0]
    assert found["volumes_ml"] == {"mandible": 12.3457, "skull": 0.0}
    assert [joint["center_origin"] for joint in found["joints"]] == ["given", "found"]
    assert found["files"] == {"label": "label.nii.gz", "mandible": None, "table": "/elsewhere/summary.csv"}
    assert found["weights"] == {"file": "models/model.ts", "sha256": "ab" * 32, "record": RECORD.to_plain()}
    assert found["seconds"] == {"load": 0.123, "network": 2.0, "total": 2.123}
    assert found["warnings"] == ["The mandible is small."]
    assert found["versions"]["bertswin_ext"] == bertswin_ext.__version__
    assert found["versions"]["torch"] == str(torch.__version__)
    assert found["versions"]["python"] == platform.python_version()
    assert set(found["versions"]) == {"bertswin_ext", "monai", "torch", "numpy", "python"}


def test_every_entry_is_described_in_its_order(tmp_path):
    """The table in the docstring is the description of the file."""
    names = [line.split("``")[1] for line in ScanReport.__doc__.splitlines() if line.startswith("    ``")]
    entries = list(full_report(tmp_path).to_json())
    assert [name for name in entries if name != "gpu_peak_memory_mb"] == names
    assert all(f"``{name}``" in ScanReport.__doc__ for name in entries)
    assert all(f"``{name}``" in ScanReport.__doc__ for name in full_report(tmp_path).to_json()["joints"][0])


def test_a_scan_that_failed_early_has_a_report(tmp_path):
    ScanReport("P2", ["P2.nii.gz"], error="P2.nii.gz: not a volume.").write(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (found["status"], found["error"]) == ("failed", "P2.nii.gz: not a volume.")
    assert found["geometry"] is None
    assert found["joints"] == []
    assert found["weights"] == {"file": None, "sha256": None, "record": None}
    assert found["seconds"] == {"total": 0}


def test_letters_of_any_language_stay_readable(tmp_path):
    ScanReport("Jürgen", ["Jürgen.nii"]).write(tmp_path / "report.json")
    assert "Jürgen" in (tmp_path / "report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("columns", "axes"),
    [([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "RAS"), ([[0, 0.1, -1], [1, 0, 0], [0, 1, 0.1]], "ASL")],
)
def test_axes_are_those_that_are_nearest(columns, axes):
    affine = np.eye(4)
    affine[:3, :3] = columns
    assert scan_geometry((4, 5, 6), affine)["axes"] == axes


def test_memory_goes_up():
    before = peak_memory_mb()
    block = np.ones(2**26, dtype=np.uint8) * 1
    assert before > 50
    assert before <= peak_memory_mb() < before + 4096
    del block
