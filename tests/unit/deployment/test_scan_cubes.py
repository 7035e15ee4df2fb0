import logging

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from bertswin_ext.deployment.autoencoder_inferers import EncodingInferer
from bertswin_ext.deployment.joint_cube import CutJointCube
from bertswin_ext.deployment.joint_finder import FoundJoint
from bertswin_ext.deployment.joint_search import JointSearch
from bertswin_ext.deployment.scan_cubes import ScanCubes
from bertswin_ext.deployment.scan_joints import NoteJointsd
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord

LEFT, RIGHT = (6.5, 11.5, 11.5), (16.5, 11.5, 11.5)
BOTH = [{"joint": "left", "center_mm": list(LEFT)}, {"joint": "right", "center_mm": list(RIGHT)}]


ONE_SURE = FoundJoint("left", LEFT, 0.9), FoundJoint("right", RIGHT, 0.2)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return BertsWinMAE(
        img_size=8, patch_size=4, hidden_size=12, num_layers=1, num_heads=1, window_size=2, stem_channels=4
    )


def load(item):
    """The preprocessing: a scan of 24 mm; one that is said to be broken cannot be read."""
    if item.get("error"):
        raise item["error"]
    values = torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(item.get("seed", 0)))
    return NoteJointsd("image")({**item, "image": MetaTensor(values * 500)})


def run(network, items, **arguments):
    """The scans' outputs and the step."""
    search = JointSearch(arguments.pop("load_finder", None))
    step = ScanCubes(load, CutJointCube(network, AdaptationRecord.of(network, 1.0)), search, **arguments)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=items,
        network=network,
        inferer=EncodingInferer(),
        iteration_update=step,
        decollate=False,
    )
    scans = []
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: scans.append(engine.state.output))
    evaluator.run()
    return scans, step


class Found:
    """A finder that has its answer."""

    min_confidence = 0.5

    def __init__(self, *found):
        self.found = found

    def candidates(self, scan):
        return self.found


def finder_of(*found):
    return lambda: Found(*found)


def never():
    raise AssertionError("no joint has to be found")


def test_every_joint_that_is_named(network):
    (scan,), step = run(network.train(), [{"name": "head", "patient": 7, "joints": BOTH}], load_finder=never)
    assert (scan.name, scan.patient, scan.cube_names, scan.error) == ("head", "7", ["left", "right"], None)
    expected = network.eval().encode_patches(scan.cubes[1].image[None], scan.cubes[1].valid[None])
    torch.testing.assert_close(scan.outputs[1], expected)
    assert not scan.outputs[1].requires_grad
    assert scan.cubes[0].mirrored
    assert not torch.allclose(*scan.outputs)
    step.raise_faults()


def test_an_item_may_be_a_joint_itself(network):
    (scan,), _ = run(network, [{"name": "head", "joint": "left", "center_mm": list(LEFT)}])
    assert scan.cube_names == ["left"]
    assert scan.patient == ""


def test_joints_that_nobody_names_are_found(network):
    loaded = []

    def load_finder():
        loaded.append(1)
        return finder_of(FoundJoint("left", LEFT, 0.9), FoundJoint("right", RIGHT, 0.8))()

    scans, step = run(network, [{"name": "a"}, {"name": "b", "seed": 1}], load_finder=load_finder)
    assert [scan.cube_names for scan in scans] == [["left", "right"]] * 2
    assert [cube.joint.confidence for cube in scans[0].cubes] == [0.9, 0.8]
    assert scans[0].cubes[1].center_mm == RIGHT
    assert loaded == [1]
    step.raise_faults()


def test_one_joint_that_is_found_is_not_silent_about_the_other(network, caplog):
    with caplog.at_level(logging.WARNING):
        (scan,), _ = run(network, [{"name": "head"}], load_finder=finder_of(*ONE_SURE))
    assert scan.cube_names == ["left"]
    assert "head: left out, too uncertain: right joint at [16.5, 11.5, 11.5] mm, confidence 0.20" in caplog.text


def unavailable():
    raise ValueError("Checkpoint locator.pt does not exist.")


@pytest.mark.parametrize(
    ("load_finder", "message"),
    [
        (None, r"a: no joint is named, and none is looked for\. Give the places, in mm in the RAS world: --joints"),
        (finder_of(), r"a: the volume: no joint found .*0\.5\. Give the places.*or `joints` in a datalist"),
        (unavailable, r"a: no joint is named, and the locator cannot be loaded: Checkpoint locator\.pt does not exist"),
    ],
)
def test_scans_without_joints_are_named_and_the_others_go_on(network, load_finder, message, caplog):
    scans, step = run(network, [{"name": "a"}, {"name": "b", "joints": BOTH}], load_finder=load_finder)
    assert [len(scan.outputs) for scan in scans] == [0, 2]
    assert scans[0].error in caplog.text
    with pytest.raises(ValueError, match=message) as raised:
        step.raise_faults()
    assert str(raised.value).startswith("1 of 2 scans came to nothing, the others are written:")
    assert "b:" not in str(raised.value)


@pytest.mark.parametrize("error", [ValueError("broken.nii: torn"), OSError("broken.nii: torn"), MemoryError()])
def test_scans_that_cannot_be_read_do_not_end_the_run(network, error):
    wrapped = RuntimeError("applying transform")
    wrapped.__cause__ = error
    items = [{"name": "a", "error": wrapped}, {"name": "b", "joints": BOTH}]
    scans, step = run(network, items)
    assert scans[0].error == (str(error) or "MemoryError")
    assert len(scans[1].cubes) == 2
    with pytest.raises(ValueError, match=rf"a: {scans[0].error}"):
        step.raise_faults()


def test_our_own_faults_do(network):
    with pytest.raises(ZeroDivisionError):
        run(network, [{"name": "a", "error": ZeroDivisionError()}])


def test_a_scan_is_taken_whole_or_not_at_all(network):
    joints = [BOTH[0], {"joint": "right", "center_mm": [999, 0, 0]}]
    (scan,), step = run(network, [{"name": "head", "joints": joints}])
    assert (scan.cubes, scan.outputs) == ([], [])
    with pytest.raises(
        ValueError, match=r"1 of 1 scans came to nothing:\n  - head: .*outside the volume of 24 x 24 x 24 voxels"
    ):
        step.raise_faults()


def test_two_joints_without_a_side_have_names_of_their_own(network):
    joints = [{"joint": None, "center_mm": list(place)} for place in (LEFT, RIGHT)]
    (scan,), _ = run(network, [{"name": "head", "joints": joints}])
    assert scan.cube_names == ["joint", "joint_2"]


def test_the_middle_of_any_scan(network):
    (scan,), _ = run(network, [{"name": "foot", "joints": BOTH}], load_finder=never, where="centre")
    assert scan.cube_names == ["centre"]
    assert scan.cubes[0].center_mm == (11.5, 11.5, 11.5)


def test_tokens_outside_the_field_of_view_are_not_valid(network):
    fov = {"center_mm": [12.5, 11.5, 0.0], "radius_mm": 5.0}
    (scan,), _ = run(network, [{"name": "head", "joints": BOTH[1:], "fov": fov}])
    assert 0 < scan.cubes[0].valid.sum() < 8


def test_another_place():
    with pytest.raises(ValueError, match=r"`where` must be 'joints' or 'centre', got 'nose'"):
        ScanCubes(load, None, JointSearch(None), where="nose")
