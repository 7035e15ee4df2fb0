import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from bertswin_ext.deployment.joint_cube import CutJointCube
from bertswin_ext.deployment.pretrained_autoencoder import PretrainedAutoencoder
from bertswin_ext.deployment.scan_cubes import CubesOfScan
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.handlers.joint_features import JointFeaturesHandler
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord


@pytest.fixture(scope="module")
def model():
    network = BertsWinMAE(
        img_size=(12, 8, 8), patch_size=4, hidden_size=12, num_layers=1, num_heads=1, window_size=2, stem_channels=4
    )
    return PretrainedAutoencoder(network, AdaptationRecord.of(network, 1.0), "cd" * 32)


def scan_of(model, name, *joints):
    """A scan, and for each token's feature its own number plus a tenth of the channel's."""
    cut = CutJointCube(model.network, model.record)
    cubes = [cut(MetaTensor(torch.randn(1, 24, 24, 24)), joint) for joint in joints]
    grid = torch.arange(12.0).reshape(1, 1, 3, 2, 2) + torch.arange(12.0).reshape(1, 12, 1, 1, 1) / 10
    return CubesOfScan({"name": name, "patient": "P1"}, cubes, [grid] * len(cubes))


def run(handler, *scans):
    engine = Engine(lambda _engine, scan: scan)
    handler.attach(engine)
    engine.run(list(scans))


def test_files_of_all_joints_and_one_table(model, tmp_path):
    left, right = ScanJoint("left", (6.5, 11.5, 11.5)), ScanJoint("right", (2.5, 11.5, 11.5), 0.75)
    handler = JointFeaturesHandler(tmp_path, model)
    scans = scan_of(model, "a", left, right), CubesOfScan({"name": "b"}, error="torn"), scan_of(model, "c", left)
    for _ in range(2):
        run(handler, *scans)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert files == ["a/left.npz", "a/right.npz", "c/left.npz", "features.csv"]
    with (tmp_path / "features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a/left.npz", "a/right.npz", "c/left.npz"]
    assert [row["joint"] for row in rows] == ["left", "right", "left"]
    assert [row["confidence"] for row in rows] == ["", "0.7500", ""]
    assert float(rows[0]["f0003"]) == pytest.approx(5.5 + 0.3)


def test_tokens_and_places_belong_together(model, tmp_path):
    joints = ScanJoint("left", (6.5, 11.5, 11.5)), ScanJoint("right", (2.5, 11.5, 11.5))
    scan = scan_of(model, "a", *joints)
    run(JointFeaturesHandler(tmp_path, model), scan)
    left, right = (np.load(tmp_path / "a" / f"{side}.npz") for side in ("left", "right"))
    np.testing.assert_allclose(left["tokens"][:, 3], np.arange(12) + 0.3, rtol=1e-6)
    # the first token of four layers is the lateral one on either side
    assert left["positions_mm"][0].tolist() == [10.5, 9.5, 9.5]
    assert right["positions_mm"][0].tolist() == [-1.5, 9.5, 9.5]
    assert (bool(left["mirrored"]), bool(right["mirrored"])) == (True, False)
    # and of the right joint it lies outside the scan
    assert right["valid"].tolist() == [False] * 4 + [True] * 8
    assert right["mean"][0] == pytest.approx(np.arange(4, 12).mean())
    assert str(left["model_sha256"]) == "cd" * 32
    assert left["spacing_mm"].tolist() == [1.0, 1.0, 1.0]


def test_half_precision_is_written_as_single(model, tmp_path):
    scan = scan_of(model, "a", ScanJoint(None, None))
    scan.outputs = [output.bfloat16() for output in scan.outputs]
    run(JointFeaturesHandler(tmp_path, model), scan)
    loaded = np.load(tmp_path / "a" / "centre.npz")
    assert loaded["tokens"].dtype == np.float32
    assert str(loaded["joint"]) == ""
