"""Segmentation from few labels, as the benchmarks train and measure it."""

import math

import pytest
import torch
from torch import nn

from bertswin_ext.data import write_phantoms


@pytest.fixture
def few_labels(imported):
    return imported("few_labels")


def test_joints_of_fewer_labels_are_among_those_of_more(few_labels):
    data = few_labels.Data([{"patient": str(number)} for number in range(8)], [])
    eight = data.labelled(8, seed=3)
    assert data.labelled(2, seed=3) == eight[:2]
    assert sorted(item["patient"] for item in eight) == [str(number) for number in range(8)]
    assert data.labelled(8, seed=4) != eight


@pytest.mark.parametrize(("pool", "held_out", "is_enough"), [(2, 1, True), (1, 1, False), (2, 0, False)])
def test_too_few_joints_are_refused(few_labels, pool, held_out, is_enough):
    data = few_labels.Data([{}] * pool, [{}] * held_out)
    if is_enough:
        data.check(2)
    else:
        found = f"{pool} labelled joints to learn from and {held_out} to measure on are too few for 2"
        with pytest.raises(SystemExit, match=found):
            data.check(2)


def test_joints_come_from_a_datalists_two_parts(few_labels, tmp_path):
    data = few_labels.Data.of_datalist(
        write_phantoms(tmp_path / "phantoms", count=3, size=24, spacing_mm=1.6, num_folds=3)
    )
    assert (len(data.pool), len(data.held_out)) == (2, 1)
    assert not {item["patient"] for item in data.pool} & {item["patient"] for item in data.held_out}


def test_the_rate_warms_up_and_falls_to_zero(few_labels):
    rates = [few_labels.share_of_rate(step / 100) for step in range(101)]
    assert rates[0] < 0.11
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


class Threshold(nn.Module):
    """Calls everything mandible that is brighter than a value that it learns."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(1, 3)

    def forward(self, x):
        return self.decoder(x.movedim(1, -1)).movedim(-1, 1)


def test_a_network_learns_from_its_crops_and_is_measured_on_whole_joints(few_labels, tmp_path):
    data = few_labels.Data.of_datalist(
        write_phantoms(tmp_path / "phantoms", count=2, size=32, spacing_mm=1.2, num_folds=2)
    )
    crops = few_labels.Crops(16, 8, 1.2, 2)
    losses, learnt = [], []
    for rate in (0.0, 0.0, 0.1):
        torch.manual_seed(0)
        network = Threshold()
        schedule = few_labels.Schedule(6, rate, rate, seed=0)
        losses.append(few_labels.train(network, crops, schedule, data.pool, "cpu"))
        learnt.append(network.decoder.weight.detach().clone())
    assert losses[0] == losses[1] > losses[2]
    assert torch.equal(learnt[0], learnt[1])
    scores = few_labels.score(network, data.held_out, crops, "cpu")
    assert 0 <= scores["dice"] <= 1
    assert scores["dice"] == pytest.approx((scores["dice_mandible"] + scores["dice_skull"]) / 2)
    assert all(math.isfinite(value) for value in scores.values())


def test_rows_come_back_by_what_tells_runs_apart(few_labels, tmp_path):
    table = tmp_path / "new" / "table.csv"
    assert few_labels.read_rows(table, ["arm", "seed"]) == {}
    few_labels.append_row(table, {"arm": "one, two", "seed": 0}, {"dice": 0.5})
    few_labels.append_row(table, {"arm": "one, two", "seed": 1}, {"dice": 1 / 3})
    assert table.read_text().splitlines() == ["arm,seed,dice", '"one, two",0,0.50000', '"one, two",1,0.33333']
    assert list(few_labels.read_rows(table, ["arm", "seed"])) == [("one, two", "0"), ("one, two", "1")]


def test_other_weights_have_another_digest(few_labels, tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"1" if name == "c" else b"0")
    first, same, other = (few_labels.digest(tmp_path / name) for name in ("a", "b", "c"))
    assert first == same != other
    assert few_labels.digest("") == "none"
