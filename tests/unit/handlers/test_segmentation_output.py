"""What is read from an evaluator's output."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate

from bertswin_ext.handlers.segmentation_output import segmented_volumes

SHAPE = (4, 5, 6)


def sample(affine=None, **changes):
    torch.manual_seed(0)
    affine = torch.eye(4) if affine is None else torch.as_tensor(affine, dtype=torch.float64)
    label = torch.randint(0, 3, (1, *SHAPE))
    found = {"image": torch.randn(1, *SHAPE), "label": label, "pred": label.roll(1, 1).float()}
    return {key: MetaTensor(value, affine=affine) for key, value in found.items()} | changes


def test_decollated_output():
    [volume] = segmented_volumes([sample(np.diag([0.2, 0.3, 0.4, 1.0]))])
    assert volume.image.shape == volume.prediction.shape == volume.reference.shape == SHAPE
    assert volume.spacing_mm == pytest.approx((0.2, 0.3, 0.4))
    assert np.array_equal(volume.reference, sample()["label"][0].numpy())
    assert np.array_equal(volume.prediction, np.roll(volume.reference, 1, 0))


def test_a_batch():
    samples = [sample(np.diag([mm, 1.0, 1.0, 1.0])) for mm in (0.2, 0.5)]
    samples[1]["image"] = samples[1]["image"] + 1
    volumes = segmented_volumes({**list_data_collate(samples), "loss": 0.5})
    assert [volume.spacing_mm[0] for volume in volumes] == pytest.approx([0.2, 0.5])
    assert np.allclose(volumes[1].image, volumes[0].image + 1)


def test_axes_come_in_the_order_nearest_to_ras():
    """The first axis of the array points down, the second to the left, the third to the front; a little oblique."""
    affine = np.array([[0, -0.3, 0.01, 9], [0, 0, 0.4, 9], [-0.2, 0, 0, 9], [0, 0, 0, 1]], dtype=float)
    [volume] = segmented_volumes([sample(affine)])
    assert volume.spacing_mm == pytest.approx((0.3, 0.4, 0.2), rel=1e-3)
    expected = sample()["label"][0].numpy().transpose(1, 2, 0)[::-1, :, ::-1]
    assert np.array_equal(volume.reference, expected)
    assert np.array_equal(volume.image, sample()["image"][0].numpy().transpose(1, 2, 0)[::-1, :, ::-1])


def test_plain_tensors_need_a_spacing():
    plain = {key: value.as_tensor() for key, value in sample().items()}
    assert segmented_volumes([plain], (0.2, 0.3, 0.4))[0].spacing_mm == (0.2, 0.3, 0.4)
    with pytest.raises(ValueError, match=r"carry no affine .* Keep them MetaTensors, or give `spacing_mm`"):
        segmented_volumes([plain])


def test_a_spacing_goes_with_the_axes_of_the_tensors():
    affine = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
    assert segmented_volumes([sample(affine)], (0.2, 0.3, 0.4))[0].spacing_mm == (0.3, 0.2, 0.4)


def test_half_precision_and_gradients():
    half = {key: value.bfloat16() for key, value in sample().items() if key != "label"}
    [volume] = segmented_volumes([{**half, "image": half["image"].requires_grad_(), "label": None}])
    assert volume.image.dtype == np.float32
    assert volume.reference is None


def test_image_and_label_may_be_missing():
    [volume] = segmented_volumes([{"pred": sample()["pred"]}])
    assert volume.image is None
    assert volume.reference is None


@pytest.mark.parametrize(
    ("output", "found"),
    [(None, "NoneType"), ([torch.zeros(1)], "list"), ({"loss": 1}, r"\['loss'\]"), ([{"label": 1}], "list")],
)
def test_other_outputs(output, found):
    with pytest.raises(TypeError, match=rf"`engine.state.output` must be a list of .*, got {found}\. Use a segment"):
        segmented_volumes(output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pred": torch.zeros(3, *SHAPE)},
            r"`pred` of a sample must be a label map .*, got \(3, 4, 5, 6\)\..*AsDiscreted",
        ),
        ({"label": torch.zeros(3, *SHAPE)}, r"`label` of a sample must be a label map"),
        ({"pred": torch.zeros(SHAPE)}, r"got \(4, 5, 6\)"),
        ({"image": "a.nii"}, r"`image` of a sample must be an image \(1, i, j, k\), got str"),
    ],
)
def test_what_is_not_a_label_map(changes, message):
    with pytest.raises(ValueError, match=message):
        segmented_volumes([sample(**changes)])
