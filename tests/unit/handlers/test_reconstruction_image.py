import gc
import weakref
from unittest import mock

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from bertswin_ext.handlers.reconstruction_figure import reconstruction_figure
from bertswin_ext.handlers.reconstruction_image import ReconstructionImageHandler

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


def test_files_and_title(tmp_path):
    handler = ReconstructionImageHandler(tmp_path / "out", PATCH, num_samples=3)
    with mock.patch(
        "bertswin_ext.handlers.reconstruction_image.reconstruction_figure", side_effect=reconstruction_figure
    ) as draw:
        make_evaluator(handler, [make_output(2, 0.0), make_output(2, 1.0), make_output(2, 2.0)], {"val_loss": 0.125})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["epoch_0001.png", "latest.png"]
    assert (tmp_path / "out" / "epoch_0001.png").read_bytes() == (tmp_path / "out" / "latest.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "out" / "latest.png").ndim == 3
    assert draw.call_args.kwargs["title"] == "epoch 1   val_loss 0.125"
    assert draw.call_args.args[0][:, 0, 0, 0, 0].tolist() == [0.0, 0.0, 1.0]  # the first three volumes


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


def test_interval_with_the_monai_evaluator(tmp_path):
    loader = torch.utils.data.DataLoader([{"image": torch.zeros(1, *SIZE), "label": torch.zeros(1)}] * 2)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=loader,
        network=Autoencoder(),
        val_handlers=[ReconstructionImageHandler(tmp_path, PATCH, interval=2)],
        decollate=False,
    )
    for global_epoch in (1, 2, 3):
        evaluator.run(global_epoch)  # as ValidationHandler does
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0002.png", "latest.png"]


def test_tensorboard(tmp_path):
    with mock.patch("torch.utils.tensorboard.SummaryWriter") as writer:
        handler = ReconstructionImageHandler(tmp_path, PATCH, log_dir=tmp_path / "runs")
        make_evaluator(handler, [make_output()]).run([make_output()])
    writer.assert_called_once_with(log_dir=str(tmp_path / "runs"))
    assert writer.return_value.add_image.call_count == 2
    (tag, pixels, epoch), kwargs = writer.return_value.add_image.call_args
    assert (tag, epoch, kwargs) == ("reconstruction", 1, {"dataformats": "HWC"})
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert len(np.unique(pixels)) > 5
    make_evaluator(ReconstructionImageHandler(tmp_path, PATCH, log_dir=tmp_path / "runs"), [make_output()])
    assert list((tmp_path / "runs").glob("events.out.*"))


@pytest.mark.parametrize(("spacing_mm", "kept"), [(0.4, (0.4, 0.4, 0.4)), ([1, 1, 2], (1, 1, 2)), (2, (2, 2, 2))])
def test_spacing_is_one_number_or_three(tmp_path, spacing_mm, kept):
    handler = ReconstructionImageHandler(tmp_path, PATCH, spacing_mm=spacing_mm)
    assert handler.spacing_mm == kept
    make_evaluator(handler, [make_output()])
    assert (tmp_path / "latest.png").exists()


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
        ({"spacing_mm": (1, 0, 1)}, r"`spacing_mm` must be one or three positive numbers, got \(1, 0, 1\). Use 1"),
        ({"spacing_mm": (1, 1)}, r"`spacing_mm` must be one or three positive numbers, got \(1, 1\). Use"),
        ({"spacing_mm": 0.0}, r"`spacing_mm` must be one or three positive numbers, got 0.0. Use"),
    ],
)
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionImageHandler(tmp_path, **{"patch_size": PATCH, **kwargs})


@pytest.mark.parametrize(
    ("output", "found"), [([{"pred": 1}], "list"), ({"pred": {"logits": 1}}, r"\['logits'\]"), (None, "NoneType")]
)
def test_bad_output(tmp_path, output, found):
    with pytest.raises(TypeError, match=rf"`engine.state.output` must be .*, got {found}. Use a masked autoencoder"):
        make_evaluator(ReconstructionImageHandler(tmp_path, PATCH), [output])
