import csv

import pytest
import torch
from ignite.engine import Engine

from bertswin_ext.handlers import CaseTableHandler
from bertswin_ext.losses import MaskedL2Loss, SubpatchStructureLoss

CASES = [{"patient": "a", "image": "a.nii"}, {"patient": "b", "image": "b.nii"}, {"image": "c.nii"}]


def batches():
    generator = torch.Generator().manual_seed(0)
    for size in (2, 1):
        image = torch.randn(size, 1, 16, 16, 16, generator=generator)
        pred = {"reconstruction": image * 0.5, "masked": torch.rand(size, 8, generator=generator) > 0.3}
        yield {"pred": pred, "label": {"image": image}}


def evaluate(path, cases=CASES, runs=1):
    losses = [SubpatchStructureLoss(8), MaskedL2Loss(8)]
    engine = Engine(lambda _engine, batch: batch)
    CaseTableHandler(path, cases, losses).attach(engine)
    for _ in range(runs):
        engine.run(list(batches()))
    with path.open() as file:
        return list(csv.DictReader(file)), losses


@pytest.mark.parametrize("runs", [1, 2])
def test_one_row_per_volume(tmp_path, runs):
    rows, (structure, l2) = evaluate(tmp_path / "cases.csv", runs=runs)
    assert [row["image"] for row in rows] == ["a.nii", "b.nii", "c.nii"]
    assert [row["patient"] for row in rows] == ["a", "b", ""]
    last = list(batches())[1]
    assert float(rows[2]["l2"]) == pytest.approx(l2(last["pred"], last["label"]).item())
    terms = structure.terms(last["pred"], last["label"])
    assert float(rows[2]["contrast"]) == pytest.approx(terms["contrast"].item())


def test_cases_of_another_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"2 cases, but 3 volumes were evaluated\. Give the evaluator's own dataset"):
        evaluate(tmp_path / "cases.csv", CASES[:2])


def test_other_ranks_write_beside(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    assert CaseTableHandler(tmp_path / "cases.csv", [], []).path.name == "cases_rank1.csv"
