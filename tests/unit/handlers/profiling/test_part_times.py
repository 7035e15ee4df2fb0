"""Times of the parts of iterations, on a clock that the test sets."""

import pytest
import torch

from bertswin_ext.handlers.profiling import part_times
from bertswin_ext.handlers.profiling.part_times import PartTimes

CPU = torch.device("cpu")


@pytest.fixture
def enter(monkeypatch):
    """Enter a part after some seconds."""
    now = [0.0]
    monkeypatch.setattr(part_times.time, "perf_counter", lambda: now[0])
    times = PartTimes(CPU)

    def after(seconds, part):
        now[0] += seconds
        times.enter(part)

    after.times = times
    return after


def test_mean_over_iterations(enter):
    for loading, computing in ((1.0, 2.0), (3.0, 4.0)):
        enter(10, "data")
        enter(loading, "forward")
        enter(computing, None)
    assert enter.times.num_iterations == 2
    assert enter.times.iteration_seconds() == [3.0, 7.0]
    assert enter.times.mean_seconds("data") == 2.0
    assert enter.times.mean_seconds("forward") == 3.0
    assert enter.times.mean_seconds("loss") == 0.0


def test_a_part_that_comes_twice_counts_as_a_whole(enter):
    for seconds, part in ((0, "data"), (1, "rest"), (2, "forward"), (4, "rest"), (8, None)):
        enter(seconds, part)
    assert enter.times.mean_seconds("rest") == 10.0
    assert sum(enter.times.mean_seconds(part) for part in ("data", "rest", "forward")) == 15.0


def test_half_iterations_do_not_count(enter):
    for seconds, part in ((0, "forward"), (1, None), (1, "data"), (1, "forward"), (1, "data"), (5, None), (1, None)):
        enter(seconds, part)
    assert enter.times.iteration_seconds() == [5.0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_its_own_clock_counts():
    """The host is through with the product long before the GPU is."""
    times = PartTimes(torch.device("cuda"))
    matrix = torch.ones(8192, 8192, device="cuda")
    torch.mm(matrix, matrix)
    for part in ("data", "forward", None):
        times.enter(part)
        if part == "forward":
            for _ in range(20):
                torch.mm(matrix, matrix)
    assert times.iteration_seconds()[0] > 0.01
    assert times.mean_seconds("forward") > 10 * times.mean_seconds("loss")
