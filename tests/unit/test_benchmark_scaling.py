"""What can be said of the scaling benchmark without running it for minutes."""

import pytest
import torch


@pytest.fixture
def module(imported):
    return imported


@pytest.fixture
def scaling(module):
    return module("scaling")


@pytest.fixture
def page(module):
    return module("growth.page")


def row(scaling, seconds, number=0, **changes):
    point = scaling.Point("edges", "BertsWin", 96, 2, 48)._replace(**changes)
    return scaling.Row(point, number, scaling.Cost(seconds, 0.25 * seconds, 4e8))


def test_rows_are_found_again(scaling, tmp_path):
    path = tmp_path / "scaling.csv"
    rows = [row(scaling, 0.5), row(scaling, 2.0, number=1, edge=128, accumulation="stochastic")]
    for one in rows:
        scaling.append_row(path, one)
    assert scaling.read_rows(path) == rows


def test_what_is_there_is_not_measured_again(scaling, tmp_path, monkeypatch):
    measured = []

    def remember(call, *arguments):
        measured.extend(arguments)
        return scaling.Cost(1.0, 0.1, 1e9) if arguments else 1e11

    monkeypatch.setattr(scaling, "in_own_process", remember)
    monkeypatch.setattr(scaling, "write_page", lambda *arguments: None)
    scaling.append_row(tmp_path / "scaling.csv", row(scaling, 0.5))
    for fresh in (False, False, True):
        scaling.run("edges", 96, rounds=2, width=48, out=str(tmp_path), fresh=fresh)
    # windows of 7 are too large for six tokens
    assert [(point.network, point.window) for point in measured[:3]] == [
        ("ViT-MAE", 0),
        ("BertsWin", 2),
        ("ViT-MAE", 0),
    ]
    assert len(measured) == 3 + 4
    assert len(scaling.read_rows(tmp_path / "scaling.csv")) == 4


def test_an_unknown_part(scaling):
    with pytest.raises(SystemExit, match="--only must be some of edges, batch, tasks, ranks, got sizes"):
        scaling.run("sizes")


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_the_losses_are_the_same_in_all(scaling, losses):
    terms = {name: torch.tensor(value) for name, value in (("brightness", 1.0), ("contrast", 2.0), ("structure", 4.0))}
    made = scaling.losses_of(terms, losses)
    assert len(made) == losses
    assert sum(made.values()) == 7


@pytest.mark.parametrize(("losses", "accumulation"), [(1, "classic"), (3, "stochastic")])
def test_a_step_moves_the_weights(scaling, monkeypatch, losses, accumulation):
    networks = []

    def remember(point):
        networks.append(make(point))
        return networks[0]

    make = scaling.make_network
    monkeypatch.setattr(scaling, "make_network", remember)
    point = scaling.Point("tasks", "demo", 48, 3, 96, 1, losses, accumulation, micro_batches=losses)
    step = scaling.training_step(point)
    before = networks[0].mask_token.detach().clone()
    seconds, update = step()
    assert 0 < update < seconds
    assert not torch.equal(networks[0].mask_token, before)


def test_seconds_are_read_off_the_log(scaling, tmp_path):
    path = tmp_path / "run.log"
    begin = "2026-11-21 10:00:"
    path.write_text(
        f"{begin}00,000 INFO bertswin_ext.runs.start: bertswin-ext\n"
        f"{begin}10,000 INFO bertswin_ext: epoch 1/1 iteration 20/120 loss 1\n"
        f"{begin}12,000 INFO bertswin_ext: epoch 1/1 iteration 40/120 loss 1\n"
        f"{begin}13,000 INFO something else\n"
        f"{begin}16,000 INFO bertswin_ext: epoch 1/1 iteration 60/120 loss 1\n"
        f"{begin}18,500 INFO bertswin_ext: epoch 1/1 iteration 80/120 loss 1\n"
    )
    assert scaling.seconds_of_log(path) == pytest.approx(2.5 / scaling.RANK_INTERVAL)


def test_processes_together_are_started_by_torchrun(scaling, tmp_path):
    together, apart = (
        scaling._command(scaling.Point("ranks", "demo", 48, 3, 96, 4, 3, kind, processes=2), tmp_path)
        for kind in ("together", "apart")
    )
    assert "--nproc_per_node=2" in together
    assert any("multi_gpu_train.json" in part for part in together)
    assert not any("multi_gpu_train.json" in part or "torch.distributed" in part for part in apart)


def test_the_exponent(page):
    assert page.exponent([216, 512, 2744], [3 * n**1.25 for n in (216, 512, 2744)]) == pytest.approx(1.25)


def test_efficiency_compares_as_many_processes_as_fast_as_one(scaling, page):
    costs = {
        row(scaling, seconds, part="ranks", processes=processes).point: [scaling.Cost(seconds, 0.0, 0.0)]
        for processes, seconds in ((1, 0.9), (2, 1.0))
    }
    *_, two = page.ranks_section(costs, 1e11).splitlines()
    assert two == "| 2 processes, classic | 2.0 (2.0 to 2.0) | 0.90 (0.90 to 0.90) |"


def test_the_page(scaling, page, tmp_path):
    rows = [
        *(row(scaling, edge**3 / 1e6, edge=edge, width=48, number=number) for edge in (96, 128) for number in (0, 1)),
        *(row(scaling, edge**3 / 1e6, edge=edge, window=0, network="ViT-MAE") for edge in (96, 128)),
        row(scaling, 9.0, edge=128, window=7),
        *(row(scaling, 1.0, part="batch", network="demo", edge=48, window=3, width=96, batch=b) for b in (1, 2)),
        *(row(scaling, 1.0, part="tasks", network="demo", edge=48, window=3, width=96, losses=k) for k in (1, 3)),
    ]
    page.write_page(rows, 1e11, tmp_path)
    text = (tmp_path / "cost-model.md").read_text(encoding="utf-8")
    assert "| BertsWin, window 2 | 96, 128 | 1.00 (1.00 to 1.00) | 1.00 (1.00 to 1.00) |" in text
    assert "| 128^3 | 8^3 | 5.36 |" in text
    assert "| demo, 48^3 | 2 | 0.500 (0.500 to 0.500) | 0.50 (0.50 to 0.50) |" in text
    assert "| H100 | 989 |" in text
    assert "**as measured**: the demo:" in text
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
