"""Values of a GPU are read without waiting, those of the CPU at once."""

import pytest
import torch

from bertswin_ext.losses.late_reading import LateReader

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_values_on_the_cpu_are_read_at_once():
    reader = LateReader()
    for values in (torch.tensor([True]), torch.tensor([False, True])):
        assert reader.read(values) is values


@pytest.mark.gpu
@needs_gpu
def test_values_on_a_gpu_come_late_but_come():
    reader = LateReader()
    first, second = (torch.tensor(values, device="cuda") for values in ([True, False], [False, False]))
    assert reader.read(first).tolist() == [True, False]
    torch.cuda.synchronize()
    assert reader.read(second).tolist() == [True, False]
    torch.cuda.synchronize()
    assert reader.read(first).tolist() == [False, False]


@pytest.mark.gpu
@needs_gpu
def test_nothing_waits_for_the_gpu():
    reader = LateReader()
    values = torch.tensor([True, False], device="cuda")
    reader.read(values)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            reader.read(values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
