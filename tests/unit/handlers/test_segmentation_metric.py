"""Scores as metrics of MONAI's evaluator, from a configuration as the bundle has it."""

import math

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from bertswin_ext.handlers.segmentation_metric import SegmentationMetric
from tests.unit.handlers.small_segmentation import NAMES, label_map, make_evaluator, sample

CONFIG = {
    "class_names": NAMES,
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
    },
    "key_metric": {
        "val_mean_dice": {
            "_target_": "bertswin_ext.handlers.SegmentationMetric",
            "class_names": "@class_names",
            "scores": ["dice"],
            "per_class": True,
        }
    },
    "additional_metrics": {
        "val": {
            "_target_": "bertswin_ext.handlers.SegmentationMetric",
            "class_names": "@class_names",
            "per_class": True,
        }
    },
}


def metrics_of(samples):
    parser = ConfigParser(CONFIG)
    content = {name: parser.get_parsed_content(name) for name in CONFIG}
    evaluator = make_evaluator(
        samples,
        postprocessing=content["postprocessing"],
        key_val_metric=content["key_metric"],
        additional_metrics=content["additional_metrics"],
    )
    evaluator.run()
    return evaluator


def test_a_configuration_for_the_bundle():
    evaluator = metrics_of([sample(0), sample(2), sample(0)])
    metrics = evaluator.state.metrics
    assert evaluator.state.best_metric == metrics["val_mean_dice"] == pytest.approx((1 + 0.75 + 1) / 3)
    assert metrics["val_mean_dice_mandible"] == pytest.approx(2.5 / 3)
    assert metrics["val_mean_dice_skull"] == 1.0
    # moved by two voxels of 0.5 mm
    assert metrics["val_hd95_mm_mandible"] == pytest.approx(1 / 3)
    assert metrics["val_hd95_mm"] == pytest.approx(1 / 6)
    assert metrics["val_assd_mm_mandible"] == pytest.approx((4 * 0.4 + 12 * 0.5 + 16) / 56 / 3)
    assert {type(value) for value in metrics.values()} == {float}


def test_a_second_validation_begins_anew():
    engine = Engine(lambda engine, batch: [batch])
    SegmentationMetric(NAMES, ["dice"], spacing_mm=(1, 1, 1)).attach(engine, "val")
    good, bad = ({"pred": label_map(), "label": label_map(shift)} for shift in (0, 4))
    assert engine.run([bad]).metrics == {"val_dice": 0.5}
    assert engine.run([good]).metrics == {"val_dice": 1.0}


def test_a_case_with_one_class_weighs_as_much_as_the_others():
    engine = Engine(lambda engine, batch: [batch])
    SegmentationMetric(NAMES, ["dice"], per_class=True, spacing_mm=(1, 1, 1)).attach(engine, "val")
    skull = label_map(mandible=False)
    cases = [{"pred": skull, "label": skull}, {"pred": label_map(), "label": label_map(4)}]
    found = engine.run(cases).metrics
    assert found == {"val_dice": 0.75, "val_dice_mandible": 0.0, "val_dice_skull": 1.0}


def test_nothing_that_counts():
    engine = Engine(lambda engine, batch: [batch])
    SegmentationMetric(NAMES, spacing_mm=(1, 1, 1)).attach(engine, "val")
    empty = torch.zeros_like(label_map())
    assert all(math.isnan(value) for value in engine.run([{"pred": empty, "label": empty}]).metrics.values())


@pytest.mark.parametrize(("scores", "found"), [(["iou"], r"\['iou'\]"), ([], r"\[\]")])
def test_unknown_scores(scores, found):
    with pytest.raises(ValueError, match=rf"`scores` must be some of dice, hd95_mm, assd_mm, got {found}"):
        SegmentationMetric(NAMES, scores)


def test_samples_without_a_label():
    engine = Engine(lambda engine, batch: [{"pred": batch}])
    SegmentationMetric(NAMES, spacing_mm=(1, 1, 1)).attach(engine, "val")
    with pytest.raises(ValueError, match="Every sample must have a `label` to be scored"):
        engine.run([label_map()])


def test_logits_are_refused():
    engine = Engine(lambda engine, batch: [{"pred": torch.zeros(3, 4, 4, 4), "label": torch.zeros(1, 4, 4, 4)}])
    SegmentationMetric(NAMES, spacing_mm=(1, 1, 1)).attach(engine, "val")
    with pytest.raises(ValueError, match=r"`pred` of a sample must be a label map .*AsDiscreted"):
        engine.run([0])
