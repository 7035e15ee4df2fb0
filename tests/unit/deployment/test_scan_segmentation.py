import logging

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, Invertd, Lambdad, Orientationd

from bertswin_ext.deployment import JointsInferer, ScanSegmentation
from bertswin_ext.deployment.scan_joints import NoteJointsd
from bertswin_ext.inferers import sliding_window

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def read(path):
    """Something in place of a reader: half of the volume is bone."""
    if path == "torn.nii.gz":
        raise ValueError("torn.nii.gz: cut off. Copy it again.")
    if path == "bug":
        raise ZeroDivisionError("a fault of the program")
    if path == "tilted":
        logging.getLogger("bertswin_ext.reading").warning("tilted: resampled")
    hu = torch.full((1, 24, 20, 16), -1000.0)
    hu[:, :12] = 1500.0
    return MetaTensor(hu, affine=torch.from_numpy(AFFINE), meta={"filename_or_obj": path})


class BoneNetwork(torch.nn.Module):
    def forward(self, x):
        return torch.cat([-x, x, x - 100], dim=1)


def evaluator(*items, **arguments):
    preprocessing = Compose(
        [
            Lambdad("image", read, track_meta=True),
            Orientationd("image", axcodes="RAS", labels=None),
            NoteJointsd("image"),
        ]
    )
    postprocessing = Compose([Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True, device="cpu")])
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": item, "name": item, **arguments} for item in items],
        network=BoneNetwork(),
        inferer=JointsInferer(sliding_window(8, 8), spacing_mm=1.0),
        iteration_update=ScanSegmentation(preprocessing, postprocessing),
        decollate=False,
    )


def attempts(engine):
    found = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(e.state.output))
    engine.run()
    return found


def test_the_label_is_on_the_voxels_of_the_file_and_beside_the_scan():
    (attempt,) = attempts(evaluator("head.nii.gz"))
    assert attempt.error is None
    assert np.array_equal(attempt.labels.stored.affine.numpy(), AFFINE)
    assert attempt.labels.stored[0, :12].all()
    assert not attempt.labels.stored[0, 12:].any()
    # the scan was turned, and so is this label
    assert attempt.labels.label[0, 12:].all()
    assert torch.equal(attempt.labels.label[0] > 0, attempt.labels.scan[0] > 0)
    assert attempt.labels.boxes_mm == [(24.0, 20.0, 32.0)]
    assert set(attempt.seconds) == {"load", "locate", "resample", "network", "invert", "restore"}


def test_a_scan_that_cannot_be_read_does_not_end_the_run():
    torn, whole = attempts(evaluator("torn.nii.gz", "head.nii.gz"))
    assert torn.error == "torn.nii.gz: cut off. Copy it again."
    assert torn.labels is None
    assert set(torn.seconds) == {"load"}
    assert whole.error is None
    assert whole.name == "head.nii.gz"


def test_a_fault_of_the_program_does():
    with pytest.raises(RuntimeError) as raised:
        evaluator("bug").run()
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_joint_outside_the_scan_is_the_scans_fault():
    (attempt,) = attempts(evaluator("head.nii.gz", joint="left", center_mm=[0, 0, 500]))
    assert "outside the volume" in attempt.error


def test_warnings_are_kept_with_the_scan_that_they_are_about():
    tilted, whole = attempts(evaluator("tilted", "head.nii.gz"))
    assert tilted.warnings == ["tilted: resampled"]
    assert whole.warnings == []
