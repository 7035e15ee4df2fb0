"""What can be said of the benchmark of whole scans without running it for minutes."""

import pytest
import torch


@pytest.fixture
def benchmark(imported):
    return imported("inference")


@pytest.fixture
def setting(benchmark):
    return benchmark.Setting("demo", "cpu", 1, 2, 16.0)


def test_a_network_works_on_its_first_windows_and_counts_all(benchmark):
    network = benchmark.FewWindows(torch.nn.Conv3d(1, 3, 1), "cpu", 2)
    results = [network(torch.ones(2, 1, 4, 4, 4)) for _ in range(5)]
    assert [bool(result.any()) for result in results] == [True, True, True, False, False]
    assert all(result.shape == (2, 3, 4, 4, 4) for result in results)
    assert network.num_windows == 10
    network.seconds = [100.0, 1.0, 3.0]
    # a second for each of ten windows, less what was spent
    assert network.left_out() == pytest.approx(10 - 104)


def test_ours_and_the_zoos_pipeline_run_on_the_same_scan(benchmark, setting, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "REGION_MM", 20.0)
    monkeypatch.setattr(benchmark, "HALF_DISTANCE_MM", 8.0)
    monkeypatch.setattr(benchmark, "SwinUNETR", lambda *_, **__: torch.nn.Conv3d(1, 3, 1))
    scan = benchmark.write_scan(tmp_path, 100)
    for pipeline in (benchmark.ours, benchmark.stock):
        seconds, network = pipeline(scan, tmp_path, setting)
        assert set(benchmark.STAGES) <= set(seconds)
        assert network.num_windows > 1
        assert (tmp_path / "label.nii.gz").is_file()
        (tmp_path / "label.nii.gz").unlink()


def test_ratios_are_taken_round_by_round(benchmark):
    stages = dict.fromkeys(benchmark.STAGES, 1.0)
    ours = [benchmark.Cost({**stages, "network": network}, 2, 2e9) for network in (2.0, 4.0)]
    stock = [benchmark.Cost({**stages, "network": network}, 8, 4e9) for network in (20.0, 20.0)]
    table = benchmark.cost_table(
        {(400, benchmark.OURS): ours, (400, benchmark.YARDSTICK): stock, (600, benchmark.OURS): []}
    )
    assert "| 7.5 (5.0 to 10.0) | 3.5 (3.0 to 4.0) |" in table
    assert "| 600^3 | ours | did not fit |" in table
