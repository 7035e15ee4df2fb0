"""How fast a product of matrices is."""

import pytest
import torch

from bertswin_ext.handlers.profiling import part_times
from bertswin_ext.handlers.profiling.product_speed import product_speed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_by_the_shortest_time(monkeypatch, dtype):
    seconds = iter([0, 4, 10, 12, 20, 23, 30, 33])
    monkeypatch.setattr(part_times.time, "perf_counter", lambda: float(next(seconds)))
    assert product_speed(torch.device("cpu"), dtype) == 2 * 1024**3 / 2


def test_no_random_numbers():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    product_speed(torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
