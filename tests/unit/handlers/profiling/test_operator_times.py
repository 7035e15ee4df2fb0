"""Operators of a recording, sorted by what they cost."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bertswin_ext.handlers.profiling.operator_times import OperatorTime, device_seconds, operator_times, product_share


@pytest.fixture(scope="module")
def recording():
    """Two iterations: a large product and two small ones each, in a named range."""
    large, small = torch.ones(256, 256), torch.ones(4, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as run:
        for _ in range(2):
            with record_function("a range"):
                torch.mm(large, large)
                torch.mm(small.T, small)
                torch.mm(small.T, small)
                torch.exp(small)
    return run


def test_per_iteration_and_by_name(recording):
    times = {time.name: time for time in operator_times(recording, 2, on_gpu=False)}
    assert times["aten::mm"].calls == 3
    assert times["aten::exp"].calls == 1
    assert all(time.shapes == "" for time in times.values())


def test_ranges_are_no_operators(recording):
    assert "a range" not in {time.name for time in operator_times(recording, 2, on_gpu=False)}


def test_most_expensive_first_and_shares_of_all(recording):
    times = operator_times(recording, 2, on_gpu=False)
    assert [time.seconds for time in times] == sorted((time.seconds for time in times), reverse=True)
    assert sum(time.share for time in times) == pytest.approx(1)
    assert device_seconds(times) == pytest.approx(sum(time.seconds for time in times))
    one = operator_times(recording, 1, on_gpu=False)
    assert device_seconds(one) == pytest.approx(2 * device_seconds(times))


def test_by_shape(recording):
    products = {
        time.shapes: time.calls
        for time in operator_times(recording, 2, on_gpu=False, by_shape=True)
        if time.name == "aten::mm"
    }
    assert products == {"256x256, 256x256": 1, "8x4, 4x8": 2}


def test_on_a_gpu_only_kernels_count(recording):
    assert device_seconds(operator_times(recording, 2, on_gpu=True)) == 0


def test_share_of_products():
    names = [
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::_scaled_dot_product_attention_math",
        "aten::add",
        "aten::mul",
    ]
    times = [OperatorTime(name, "", 1.0, 1.0, share=0.1 * (i + 1)) for i, name in enumerate(names)]
    assert product_share(times) == pytest.approx(0.1 + 0.2 + 0.3 + 0.4)
