import csv

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from bertswin_ext.deployment.joint_cube import CutJointCube
from bertswin_ext.deployment.pretrained_autoencoder import PretrainedAutoencoder
from bertswin_ext.deployment.scan_cubes import CubesOfScan
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.handlers.joint_reconstructions import JointReconstructionsHandler
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord

PLACE = (11.5, 11.5, 11.5)
FIRST_LAYER = torch.arange(8).reshape(2, 2, 2)[0].flatten()


@pytest.fixture(scope="module")
def model():
    network = BertsWinMAE(
        img_size=8, patch_size=4, hidden_size=12, num_layers=1, num_heads=1, window_size=2, stem_channels=4
    )
    return PretrainedAutoencoder(network, AdaptationRecord.of(network, 1.0), "cd" * 32)


def scan_of(model, joint, errors=(0.5,), name="a", fov=None):
    """A scan whose reconstruction is off by so much in the hidden first layer of tokens, and right elsewhere."""
    values = torch.linspace(-900, 900, 24).reshape(1, 24, 1, 1).expand(1, 24, 24, 24)
    cube = CutJointCube(model.network, model.record)(MetaTensor(values.clone()), joint, fov)
    image = cube.image[None].expand(len(errors), -1, -1, -1, -1).clone()
    masked = torch.zeros(len(errors), 8, dtype=torch.bool)
    masked[:, FIRST_LAYER] = True
    for mask, error in enumerate(errors):
        image[mask, :, :4] += error
    return CubesOfScan({"name": name, "patient": "P1"}, [cube], [{"reconstruction": image, "masked": masked}])


def run(handler, *scans):
    engine = Engine(lambda _engine, scan: scan)
    handler.attach(engine)
    engine.run(list(scans))
    with (handler.output_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_picture_for_every_joint_and_a_row_for_every_mask(model, tmp_path):
    handler = JointReconstructionsHandler(tmp_path, model)
    scans = scan_of(model, ScanJoint("left", PLACE), (0.5, 0.25)), CubesOfScan({"name": "b"}, error="torn")
    for _ in range(2):
        rows = run(handler, *scans, scan_of(model, ScanJoint(None, None), name="c"))
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    assert files == ["a/left_reconstruction.png", "c/centre_reconstruction.png", "metrics.csv"]
    assert [(row["scan"], row["joint"], row["mask"]) for row in rows] == [
        ("a", "left", "0"),
        ("a", "left", "1"),
        ("c", "", "0"),
    ]
    assert [float(row["masked_mse"]) for row in rows] == pytest.approx([0.25, 0.0625, 0.25], rel=1e-4)
    assert float(rows[0]["masked_rmse_hu"]) == pytest.approx(0.5 * 578.02, rel=1e-4)
    assert {row["hidden_share"] for row in rows} == {"0.5000"}
    assert [rows[0][f"center_{axis}_mm"] for axis in "xyz"] == ["11.500"] * 3
    one, two = (matplotlib.image.imread(tmp_path / file) for file in (files[1], files[0]))
    assert len(two) > 1.8 * len(one)


def test_only_what_lies_in_the_scan_counts(model, tmp_path):
    """Of the hidden tokens the two that are off by more lie outside the field of view."""
    scan = scan_of(model, ScanJoint("right", PLACE), fov={"center_mm": [11.5, 21.0, 0.0], "radius_mm": 11.0})
    valid = scan.cubes[0].valid.reshape(2, 2, 2)
    assert valid[:, 1].all()
    assert not valid[:, 0].any()
    scan.outputs[0]["reconstruction"][:, :, :4, :4] += 7
    (row,) = run(JointReconstructionsHandler(tmp_path, model), scan)
    assert float(row["masked_mse"]) == pytest.approx(0.25, rel=1e-4)
    assert row["hidden_share"] == "0.5000"


def bluish(panel):
    """Where hidden tokens are painted."""
    return panel[..., 2] - panel[..., 0] > 0.1


@pytest.mark.parametrize(("side", "hidden_on_the_left"), [("right", True), ("left", False)])
def test_pictures_show_the_patient_not_the_mirrored_cube(model, tmp_path, side, hidden_on_the_left):
    """The hidden layer is the first along i: the patient's left of a right joint's cube, which the letter L is at."""
    run(JointReconstructionsHandler(tmp_path, model), scan_of(model, ScanJoint(side, PLACE)))
    picture = matplotlib.image.imread(tmp_path / "a" / f"{side}_reconstruction.png")[..., :3]
    columns = np.flatnonzero(bluish(picture[-100:]).any(axis=0))  # the axial plane is the lowest
    width = picture.shape[1] / 4
    middle = (columns.min() + columns.max()) / 2 - width  # within the second panel
    assert (middle < width / 2) == hidden_on_the_left
    # the original: HU rise to the patient's right whatever the side
    low, high = picture[-60, int(0.25 * width), 0], picture[-60, int(0.9 * width), 0]
    assert low < high


def test_a_window_that_does_not_increase(model, tmp_path):
    with pytest.raises(ValueError, match=r"`display_range` must be two increasing numbers, got \(100, 100\)"):
        JointReconstructionsHandler(tmp_path, model, window_hu=(100, 100))
