"""What an evaluation leaves behind."""

import csv
import json

import matplotlib.image
import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import AsDiscreted

from bertswin_ext.handlers.segmentation_report import SegmentationReportHandler
from tests.unit.handlers.small_segmentation import NAMES, label_map, make_evaluator, sample

SHIFTS = (0, 3, 1, 2, 0)
CASES = [{"image": f"{n}.nii", "patient": f"P{n}", "joint": "left", "center_mm": [1.0, n, 2.0]} for n in range(5)]
FILES = ["scores.csv", "summary.json", "summary.md", "worst.png"]


def evaluate(folder, cases=CASES, shifts=SHIFTS, **options):
    handler = SegmentationReportHandler(folder, NAMES, cases, **options)
    make_evaluator(
        [sample(shift) for shift in shifts],
        val_handlers=[handler],
        postprocessing=AsDiscreted(keys="pred", argmax=True),
    ).run()
    return handler


def rows_of(folder):
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_monais_evaluator(tmp_path):
    evaluate(tmp_path / "out", title="Fold 2")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    rows = rows_of(tmp_path / "out")
    assert [(row["patient"], row["class"]) for row in rows[:3]] == [
        ("P0", "mandible"),
        ("P0", "skull"),
        ("P1", "mandible"),
    ]
    assert [float(row["dice"]) for row in rows[::2]] == [1.0, 0.25, 0.75, 0.5, 1.0]
    assert [float(row["hd95_mm"]) for row in rows[::2]] == [0.0, 1.5, 0.5, 1.0, 0.0]
    assert {row["joint"] for row in rows} == {"left"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["classes"]["mandible"]["dice"]["mean"] == pytest.approx(0.7)
    assert [case["patient"] for case in summary["worst"]] == ["P1", "P3", "P2", "P0"]
    assert (tmp_path / "out" / "summary.md").read_text().startswith("# Fold 2\n")
    assert matplotlib.image.imread(tmp_path / "out" / "worst.png").ndim == 3


def test_the_picture_shows_the_worst_cases(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("bertswin_ext.handlers.segmentation_report.write_gallery", lambda *args: drawn.append(args))
    evaluate(tmp_path, num_worst=2)
    [(path, cases, names, title)] = drawn
    assert (path, names, title) == (tmp_path / "worst.png", NAMES, "Segmentation: the worst 2 of 5 cases")
    first, second = (case.title for case in cases)
    assert first.startswith("P1  ·  left joint  ·  Dice 0.625  ·  HD95 0.75 mm\nmandible: Dice 0.250, HD95 1.50 mm")
    assert second.startswith("P3  ·  left joint  ·  Dice 0.750")
    wrong = [plane.prediction != plane.reference for plane in cases[0].planes]
    assert all(part.any() for part in wrong)
    # z-scored values become HU: the image's 2, the skull
    assert cases[0].planes[0].image_hu.max() == round(2 * 578.02 - 21.14)


def test_only_planes_of_the_worst_are_kept(tmp_path):
    handler = SegmentationReportHandler(tmp_path, NAMES, CASES, num_worst=1, spacing_mm=(1, 1, 1), mean_hu=0, std_hu=1)
    engine = Engine(lambda engine, shift: [{"image": label_map(), "pred": label_map(), "label": label_map(shift)}])
    handler.attach(engine)
    kept = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: kept.append([p.planes.title[:2] for p in handler._worst])
    )
    engine.run(SHIFTS)
    assert kept == [["P0"], ["P1"], ["P1"], ["P1"], ["P1"]]
    assert handler._worst[0].planes.planes[0].image_hu.max() == 2


def test_a_second_evaluation_begins_anew(tmp_path):
    handler = SegmentationReportHandler(tmp_path, NAMES, CASES[:1], spacing_mm=(1, 1, 1))
    engine = Engine(lambda engine, shift: {key: label_map(shift)[None] for key in ("image", "pred", "label")})
    handler.attach(engine)
    engine.run([0])
    engine.run([2])
    assert len(rows_of(tmp_path)) == 2


def test_without_images_there_is_no_picture(tmp_path):
    engine = Engine(lambda engine, shift: [{"pred": label_map(), "label": label_map(shift)}])
    SegmentationReportHandler(tmp_path, NAMES, CASES, spacing_mm=(1, 1, 1)).attach(engine)
    engine.run(SHIFTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[:3]


def test_no_picture_where_none_is_asked_for(tmp_path):
    evaluate(tmp_path, num_worst=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[:3]
    assert json.loads((tmp_path / "summary.json").read_text())["worst"] == []


def test_cases_that_show_nothing_are_not_the_worst(tmp_path):
    empty = torch.zeros_like(label_map())
    engine = Engine(lambda engine, batch: [{"image": empty, "pred": empty, "label": empty}])
    SegmentationReportHandler(tmp_path, NAMES, CASES[:1], spacing_mm=(1, 1, 1)).attach(engine)
    engine.run([0])
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[:3]
    assert {row["note"] for row in rows_of(tmp_path)} == {"absent"}


def test_the_first_process_writes_what_all_have_found(tmp_path, monkeypatch):
    """The other process has one case that this one had as well, and one of its own that is worse."""
    others = []
    other = SegmentationReportHandler(tmp_path / "other", NAMES, [CASES[0], CASES[4]], spacing_mm=(1, 1, 1))
    monkeypatch.setattr(
        "bertswin_ext.handlers.segmentation_report.gathered", lambda values: others.append(values) or list(values)
    )
    engine = Engine(lambda engine, shift: [{"image": label_map(), "pred": label_map(), "label": label_map(shift)}])
    other.attach(engine)
    engine.run([0, 4])
    waiting = iter(others[:])
    monkeypatch.setattr(
        "bertswin_ext.handlers.segmentation_report.gathered", lambda values: list(values) + list(next(waiting))
    )
    engine = Engine(lambda engine, shift: [{"image": label_map(), "pred": label_map(), "label": label_map(shift)}])
    SegmentationReportHandler(tmp_path, NAMES, CASES[:2], num_worst=1, spacing_mm=(1, 1, 1)).attach(engine)
    engine.run([0, 1])
    assert [row["patient"] for row in rows_of(tmp_path)] == ["P0", "P0", "P1", "P1", "P4", "P4"]
    assert [c["patient"] for c in json.loads((tmp_path / "summary.json").read_text())["worst"]] == ["P4"]


def test_other_processes_are_silent(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    evaluate(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("cases", "seen"), [(CASES[:4], "4 cases, but more"), (2 * CASES, "10 cases, but 5")])
def test_cases_of_another_dataset(tmp_path, cases, seen):
    with pytest.raises(
        ValueError, match=rf"{seen} volumes were evaluated\. Give the evaluator's own dataset to `cases`"
    ):
        evaluate(tmp_path / "out", cases)
    assert not (tmp_path / "out").exists()


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"`num_worst` must not be negative, got -1\. Use 0 for no picture"):
        SegmentationReportHandler(tmp_path, NAMES, CASES, num_worst=-1)
    engine = Engine(lambda engine, batch: [{"pred": label_map()}])
    SegmentationReportHandler(tmp_path, NAMES, CASES, spacing_mm=(1, 1, 1)).attach(engine)
    with pytest.raises(ValueError, match=r"0\.nii: the sample has no `label` to be scored"):
        engine.run([0])
