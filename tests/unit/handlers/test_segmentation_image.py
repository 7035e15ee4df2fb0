"""Pictures of the first volumes of a validation."""

import gc
import weakref
from unittest import mock

import matplotlib.image
import pytest
from ignite.engine import Engine, Events
from monai.transforms import AsDiscreted

from bertswin_ext.evaluation.case_gallery import gallery_figure
from bertswin_ext.handlers.segmentation_image import SegmentationImageHandler
from tests.unit.handlers.small_segmentation import NAMES, label_map, make_evaluator, sample

DRAW = "bertswin_ext.handlers.segmentation_image.gallery_figure"


def run(handler, outputs, metrics=None):
    engine = Engine(lambda engine, batch: batch)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(metrics or {}))
    handler.attach(engine)
    engine.run(outputs)
    return engine


def output(shift=0):
    return [{"image": label_map(), "pred": label_map(), "label": label_map(shift)}]


def test_files_and_title(tmp_path):
    handler = SegmentationImageHandler(tmp_path / "out", NAMES, spacing_mm=(1, 1, 1))
    with mock.patch(DRAW, side_effect=gallery_figure) as draw:
        run(handler, [output(0), output(1), output(2)], {"val_mean_dice": 0.875})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["epoch_0001.png", "latest.png"]
    assert (tmp_path / "out" / "epoch_0001.png").read_bytes() == (tmp_path / "out" / "latest.png").read_bytes()
    assert matplotlib.image.imread(tmp_path / "out" / "latest.png").ndim == 3
    cases, names, title = draw.call_args.args
    assert (len(cases), names, title) == (2, NAMES, "epoch 1   val_mean_dice 0.875")
    assert cases[0].planes[0].image_hu.min() == -21  # 0 in units of the network


def test_a_title_of_its_own(tmp_path):
    handler = SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1), title="Segmentation")
    with mock.patch(DRAW, side_effect=gallery_figure) as draw:
        run(handler, [output()])
    assert draw.call_args.args[2] == "Segmentation"
    assert [path.name for path in tmp_path.iterdir()] == ["latest.png"]


def test_the_planes_do_not_depend_on_the_prediction(tmp_path):
    handler = SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1))
    with mock.patch(DRAW, side_effect=gallery_figure) as draw:
        for shift in (0, 5):
            run(handler, [[{"image": label_map(), "pred": label_map(shift), "label": label_map(1)}]])
    before, after = (call.args[0][0] for call in draw.call_args_list)
    assert before.focus_vox == after.focus_vox
    assert before.planes[2].prediction.tolist() != after.planes[2].prediction.tolist()


def test_interval_with_the_monai_evaluator(tmp_path):
    evaluator = make_evaluator(
        [sample(0), sample(1), sample(2)],
        val_handlers=[SegmentationImageHandler(tmp_path, NAMES, num_samples=3, interval=2)],
        postprocessing=AsDiscreted(keys="pred", argmax=True),
    )
    for global_epoch in (1, 2, 3):
        evaluator.run(global_epoch)  # as ValidationHandler does
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_0002.png", "latest.png"]


def test_without_a_reference(tmp_path):
    handler = SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1), mean_hu=0, std_hu=1)
    with mock.patch(DRAW, side_effect=gallery_figure) as draw:
        run(handler, [[{"image": label_map(), "pred": label_map()}]])
    [case] = draw.call_args.args[0]
    assert case.planes[0].reference is None
    assert case.planes[0].image_hu.max() == 2


def test_nothing_of_the_batch_is_kept(tmp_path):
    handler, images = SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1)), []

    def update(engine, batch):
        found = output()
        images.append(weakref.ref(found[0]["image"]))
        return found

    engine = Engine(update)
    handler.attach(engine)
    engine.run([0, 1])
    engine.state.output = None
    gc.collect()
    assert [image() for image in images] == [None, None]
    assert handler._samples == []


def test_tensorboard(tmp_path):
    with mock.patch("torch.utils.tensorboard.SummaryWriter") as writer:
        run(SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1), log_dir=tmp_path / "runs"), [output()])
    writer.assert_called_once_with(log_dir=str(tmp_path / "runs"))
    (tag, pixels, epoch), kwargs = writer.return_value.add_image.call_args
    assert (tag, epoch, kwargs) == ("segmentation", 1, {"dataformats": "HWC"})
    assert pixels.shape[2] == 3


def test_rank_one_is_silent(tmp_path):
    with mock.patch("ignite.distributed.get_rank", return_value=1):
        run(SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1), log_dir=tmp_path / "runs"), [output()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_samples": 0}, r"`num_samples` must be a positive integer, got 0\."),
        ({"interval": 1.5}, r"`interval` must be a positive integer, got 1\.5\."),
    ],
)
def test_bad_arguments(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        SegmentationImageHandler(tmp_path, NAMES, **kwargs)


def test_samples_without_an_image(tmp_path):
    with pytest.raises(ValueError, match="Every sample must have an `image` to be drawn"):
        run(SegmentationImageHandler(tmp_path, NAMES, spacing_mm=(1, 1, 1)), [[{"pred": label_map()}]])
