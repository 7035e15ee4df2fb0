import gc
import weakref
from unittest import mock

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from matplotlib.colors import to_rgb
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from bertswin_ext.handlers.reconstruction_image import (
    _HIDDEN,
    ReconstructionImageHandler,
    blank_masked,
    reconstruction_figure,
)

PATCH = 4
SIZE = (8, 12, 16)
TOKENS = 2 * 3 * 4


def make_output(batch=1, value=0.0):
    image = torch.full((batch, 1, *SIZE), value)
    masked = torch.zeros(batch, TOKENS, dtype=torch.bool)
    masked[:, ::2] = True
    return {"image": image, "label": image, "pred": {"reconstruction": image + 1, "masked": masked}}


def make_evaluator(handler, outputs, metrics=None):
    evaluator = Engine(lambda engine, batch: batch)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(metrics or {}))
    handler.attach(evaluator)
    evaluator.run(outputs)
    return evaluator


def data_of(figure, column, plane):
    """Return the pixels of a panel of the first volume."""
    return figure.axes[3 * column + plane].images[0].get_array()


@pytest.mark.parametrize("token", [0, 1, 4, 12, 23])
def test_one_masked_token_blanks_exactly_its_voxels(token):
    masked = torch.zeros(2, TOKENS, dtype=torch.bool)
    masked[1, token] = True
    blanked = blank_masked(torch.zeros(2, 3, *SIZE), masked, PATCH, value=7.0)
    gi, gj, gk = token // 12, token // 4 % 3, token % 4
    expected = torch.zeros(2, 3, *SIZE)
    expected[1, :, 4 * gi : 4 * gi + 4, 4 * gj : 4 * gj + 4, 4 * gk : 4 * gk + 4] = 7.0
    assert torch.equal(blanked, expected)
    assert (blanked != 0).sum() == 3 * PATCH**3


def test_planes_and_directions():
    image = torch.zeros(1, 1, *SIZE)
    image[0, 0, 4, 6, 15] = 1.0  # central in i and j, uppermost in k
    figure = reconstruction_figure(image, image, torch.zeros(1, TOKENS, dtype=torch.bool), PATCH)
    sagittal, coronal, axial = (data_of(figure, 0, plane) for plane in range(3))
    assert (sagittal.shape, coronal.shape, axial.shape) == ((16, 12), (16, 8), (12, 8))
    assert np.argwhere(sagittal == 1).tolist() == [[15, 6]]
    assert np.argwhere(coronal == 1).tolist() == [[15, 4]]
    assert not axial.any()
    assert {axes.images[0].origin for axes in figure.axes} == {"lower"}  # row 15 is drawn at the top


def test_columns():
    output = make_output(value=0.25)
    masked = torch.zeros(1, TOKENS, dtype=torch.bool)
    masked[0, 18] = True  # token (1, 1, 2): the only one hidden, it holds the centre
    figure = reconstruction_figure(output["image"], output["pred"]["reconstruction"], masked, PATCH)
    original, visible, reconstruction, pasted = (data_of(figure, column, 0) for column in range(4))
    assert set(np.unique(original)) == {0.25}
    assert set(np.unique(reconstruction)) == {1.25}
    expected = np.zeros((16, 12), dtype=bool)
    expected[8:12, 4:8] = True
    assert np.array_equal(np.ma.getmaskarray(visible), expected)
    assert np.array_equal(pasted == 1.25, expected)
    assert [text.get_text() for text in figure.texts][1:3] == ["original", "visible (96%)"]


def test_hidden_tokens_have_their_own_colour():
    masked = torch.ones(1, TOKENS, dtype=torch.bool)
    figure = reconstruction_figure(*[torch.full((1, 1, *SIZE), -5.0)] * 2, masked, PATCH)
    image = figure.axes[3].images[0]
    assert np.allclose(image.cmap(image.norm(image.get_array()))[0, 0, :3], to_rgb(_HIDDEN))


def test_panels_have_the_proportions_of_the_volume():
    figure = reconstruction_figure(
        *[torch.zeros(1, 1, *SIZE)] * 2, torch.ones(1, TOKENS).bool(), PATCH, spacing_mm=(1, 1, 2)
    )
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes[:3]]
    ratios = [box.height * height / (box.width * width) for box in boxes]
    assert ratios == pytest.approx([32 / 12, 32 / 8, 12 / 8])


def test_files_and_title(tmp_path):
    handler = ReconstructionImageHandler(tmp_path / "out", PATCH, num_samples=3, global_epoch_transform=lambda epoch: 7)
    with mock.patch(
        "bertswin_ext.handlers.reconstruction_image.reconstruction_figure", side_effect=reconstruction_figure
    ) as draw:
        make_evaluator(handler, [make_output(2, 0.0), make_output(2, 1.0), make_output(2, 2.0)], {"val_loss": 0.125})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["epoch_0007.png", "latest.png"]
    assert (tmp_path / "out" / "epoch_0007.png").read_bytes() == (tmp_path / "out" / "latest.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "out" / "latest.png").ndim == 3
    assert draw.call_args.kwargs["title"] == "epoch 7   val_loss 0.125"
    assert draw.call_args.args[0][:, 0, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]  # the first three volumes


def test_interval(tmp_path):
    epoch = iter([1, 2, 3])
    handler = ReconstructionImageHandler(tmp_path, PATCH, interval=2, global_epoch_transform=lambda _: next(epoch))
    evaluator = make_evaluator(handler, [make_output()])
    for _ in range(2):
        evaluator.run([make_output()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0002.png", "latest.png"]


def test_nothing_of_the_batch_is_kept(tmp_path):
    handler, images = ReconstructionImageHandler(tmp_path, PATCH), []

    def update(engine, batch):
        output = make_output()
        images.append(weakref.ref(output["image"]))
        return output

    evaluator = Engine(update)
    handler.attach(evaluator)
    evaluator.add_event_handler(Events.EPOCH_STARTED, lambda engine: images.clear())
    evaluator.run([0, 1])
    evaluator.state.output = None
    gc.collect()
    assert [image() for image in images] == [None, None]
    assert handler._samples == []


def test_input_is_not_changed_and_half_precision_works(tmp_path):
    output = make_output()
    output["image"] = MetaTensor(output["image"].bfloat16())
    output["pred"]["reconstruction"] = output["pred"]["reconstruction"].bfloat16().requires_grad_()
    before = output["image"].clone()
    make_evaluator(ReconstructionImageHandler(tmp_path, PATCH), [output])
    assert torch.equal(output["image"], before)


class Autoencoder(torch.nn.Module):
    def forward(self, image):
        return {"reconstruction": image + 1, "masked": torch.ones(len(image), TOKENS, dtype=torch.bool)}


@pytest.mark.parametrize("global_epoch", [1, 3])
def test_with_the_monai_evaluator(tmp_path, global_epoch):
    loader = torch.utils.data.DataLoader([{"image": torch.zeros(1, *SIZE), "label": torch.zeros(1)}] * 2)
    SupervisedEvaluator(
        device="cpu",
        val_data_loader=loader,
        network=Autoencoder(),
        val_handlers=[ReconstructionImageHandler(tmp_path, PATCH)],
        decollate=False,
    ).run(global_epoch)  # as ValidationHandler does
    assert (tmp_path / f"epoch_{global_epoch:04d}.png").exists()


def test_tensorboard(tmp_path):
    writer = mock.Mock()
    make_evaluator(ReconstructionImageHandler(tmp_path, PATCH, summary_writer=writer), [make_output()])
    (tag, pixels, epoch), kwargs = writer.add_image.call_args
    assert (tag, epoch, kwargs) == ("reconstruction", 1, {"dataformats": "HWC"})
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels)) > 5
    make_evaluator(ReconstructionImageHandler(tmp_path, PATCH, log_dir=tmp_path / "runs"), [make_output()])
    assert list((tmp_path / "runs").glob("events.out.*"))


def test_rank_one_is_silent(tmp_path):
    handler = ReconstructionImageHandler(tmp_path, PATCH, log_dir=tmp_path / "runs")
    with mock.patch("ignite.distributed.get_rank", return_value=1):
        make_evaluator(handler, [make_output()])
    assert list(tmp_path.iterdir()) == []


def test_random_state_is_untouched(tmp_path):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is what must not be touched
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    make_evaluator(ReconstructionImageHandler(tmp_path, PATCH), [make_output()])
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patch_size": 0}, r"`patch_size` must be a positive integer, got 0. Use 1 or more."),
        ({"num_samples": 1.5}, r"`num_samples` must be a positive integer, got 1.5. Use 1 or more."),
        ({"interval": 0}, r"`interval` must be a positive integer, got 0."),
        ({"display_range": (1, 1)}, r"`display_range` must be two increasing numbers, got \(1, 1\). Use for example"),
        ({"spacing_mm": (1, 0, 1)}, r"`spacing_mm` must be three positive numbers, got \(1, 0, 1\). Use"),
    ],
)
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionImageHandler(tmp_path, **{"patch_size": PATCH, **kwargs})


def test_bad_shapes():
    image, masked = torch.zeros(1, 1, *SIZE), torch.zeros(1, TOKENS, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"divisible by `patch_size` 5, got \(1, 1, 8, 12, 16\). Use the patch size"):
        blank_masked(image, masked, 5, 0.0)
    with pytest.raises(ValueError, match=r"\(b, n\) = \(1, 24\) for a token grid of 2 x 3 x 4, got \(1, 3\). Use"):
        blank_masked(image, masked[:, :3], PATCH, 0.0)
    with pytest.raises(ValueError, match=r"the shape of the image \(1, 1, 8, 12, 16\), got \(1, 1, 4, 12, 16\). Pass"):
        reconstruction_figure(image, image[:, :, :4], masked, PATCH)


@pytest.mark.parametrize(
    ("output", "found"), [([{"pred": 1}], "list"), ({"pred": {"logits": 1}}, r"\['logits'\]"), (None, "NoneType")]
)
def test_bad_output(tmp_path, output, found):
    with pytest.raises(TypeError, match=rf"`engine.state.output` must be .*, got {found}. Use a masked autoencoder"):
        make_evaluator(ReconstructionImageHandler(tmp_path, PATCH), [output])
