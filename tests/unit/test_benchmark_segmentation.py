"""What can be said of the segmentation benchmarks without running them for minutes."""

import pytest
import torch


@pytest.fixture
def benchmark(imported):
    return imported


@pytest.fixture
def segmentation(benchmark):
    return benchmark("segmentation")


@pytest.fixture
def efficiency(benchmark):
    return benchmark("label_efficiency")


def test_costs_are_compared_round_by_round(segmentation):
    task = segmentation.TASKS[0]
    costs = {
        (task, 96, "SwinUNETR"): [segmentation.Cost(4.0, 8e9), segmentation.Cost(10.0, 8e9)],
        (task, 96, "BertsWinSegmenter"): [segmentation.Cost(1.0, 2e9), segmentation.Cost(5.0, 2e9)],
    }
    *_, ours = segmentation.cost_table(costs, task, [96]).splitlines()
    assert "| 3.00 (1.00 to 5.00) | 0.38 (0.25 to 0.50) | 2000 | 0.25 |" in ours


def test_what_did_not_fit_is_extrapolated_along_the_voxels(segmentation):
    task = segmentation.TASKS[0]
    costs = {(task, crop, name): [] for crop in (32, 64, 96) for name in segmentation.NETWORKS}
    for crop in (32, 64):
        costs[task, crop, "SwinUNETR"] = [segmentation.Cost(1 + crop**3 / 1e5, 1e9 + 1e4 * crop**3)]
    table = segmentation.cost_table(costs, task, [32, 64, 96])
    row = next(line for line in table.splitlines() if line.startswith("| 96^3 | SwinUNETR"))
    assert f"did not fit; about {1 + 96**3 / 1e5:.0f}" in row
    assert f"did not fit; about {(1e9 + 1e4 * 96**3) / 1e6:.0f}" in row
    assert "| 96^3 | BertsWinSegmenter | did not fit |  | did not fit |  |" in table


def test_a_network_that_never_fits_is_not_tried_again(segmentation, monkeypatch):
    tried = []

    def refuse(call, task, crop, name, setting):
        tried.append((task, name))
        return None if name == "SwinUNETR" else segmentation.Cost(1.0, 1.0)

    monkeypatch.setattr(segmentation, "in_own_process", refuse)
    costs = segmentation.take_turns([96], 3, None)
    assert [len(found) for found in costs.values()] == [0, 3, 0, 3]
    assert len(tried) == 2 * (1 + 3)


def test_each_networks_step_moves_its_weights(segmentation):
    setting = segmentation.Setting("cpu", "float32", 1, 12.0)
    network = torch.nn.Conv3d(1, 3, 1)
    before = network.weight.detach().clone()
    segmentation.training_step(network, setting)(16)
    assert not torch.equal(network.weight, before)


def job(efficiency, **changes):
    return efficiency.Job("scratch", 1, 0, "demo", 5, 2e-3, 2e-3, "none")._replace(**changes)


def test_runs_that_are_there_are_known_again(efficiency, tmp_path):
    path = tmp_path / "runs.csv"
    efficiency.append_row(path, job(efficiency)._asdict(), {"dice": 0.5, "hd95_mm": 2.0})
    efficiency.append_row(path, job(efficiency, seed=1)._asdict(), {"dice": 0.25, "hd95_mm": 4.0})
    found = efficiency.read_rows(path, efficiency.Job._fields)
    assert job(efficiency).key() in found
    assert [float(row["dice"]) for row in found.values()] == [0.5, 0.25]
    for change in ({"steps": 6}, {"weights": "0a1b2c3d"}, {"head_lr": 1e-3}, {"labelled": 2}):
        assert job(efficiency, **change).key() not in found


def test_scores_are_compared_seed_by_seed(efficiency):
    results = {
        ("pretrained", 1): [{"dice": 0.75, "hd95_mm": 1.0}, {"dice": 1.0, "hd95_mm": 2.0}],
        ("scratch", 1): [{"dice": 0.5, "hd95_mm": 3.0}, {"dice": 0.75, "hd95_mm": 4.0}],
    }
    _, _, own, scratch = efficiency.result_table(results).splitlines()
    assert own.startswith("| 1 | BertsWin, pre-trained | 0.875 (0.750 to 1.000) | 1.50 (1.00 to 2.00) |")
    assert own.endswith("| +0.250 (+0.250 to +0.250) | -2.00 (-2.00 to -2.00) |")
    assert scratch.endswith("|  |  |")


@pytest.mark.parametrize("name", ["pretrained", "scratch", "vit", "swin_unetr"])
@torch.inference_mode()
def test_every_method_takes_the_demos_crops(efficiency, name):
    size = efficiency.SIZES["demo"]
    network, shape = efficiency.METHODS[name].make(size).eval(), 3 * [size.crops.img_size]
    assert network(torch.zeros(1, 1, *shape)).shape == (1, 3, *shape)


def test_a_method_without_its_encoder_is_refused(efficiency, tmp_path):
    with pytest.raises(SystemExit, match="needs --vit_encoder FILE"):
        efficiency._file_of("vit", {"encoder": "a", "vit_encoder": ""})
    with pytest.raises(SystemExit, match="--methods must be some of pretrained"):
        efficiency._file_of("unet", {})
