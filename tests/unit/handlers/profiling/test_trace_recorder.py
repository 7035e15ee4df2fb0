"""A time line of a few iterations."""

import gzip
import json

import pytest
import torch

from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.trace_recorder import TraceRecorder

CPU = torch.device("cpu")


def record(iterations, warmup=1, active=2):
    """Iterations that differ in the product they compute."""
    recorder = TraceRecorder(CPU, warmup, active)
    for iteration in range(iterations):
        recorder.enter("data")
        recorder.enter("forward")
        torch.mm(torch.ones(2, iteration + 1), torch.ones(iteration + 1, 2))
        recorder.enter(None)
    recorder.stop()
    return recorder


def shapes(recorder):
    return sorted(time.shapes for time in recorder.operators(by_shape=True) if time.name == "aten::mm")


def test_the_first_iterations_are_thrown_away():
    recorder = record(3)
    assert recorder.num_recorded == 2
    assert shapes(recorder) == ["2x2, 2x2", "2x3, 3x2"]
    assert {time.calls for time in recorder.operators() if time.name == "aten::mm"} == {1.0}


def test_what_there_is_when_it_ends_early():
    recorder = record(2, active=5)
    assert recorder.num_recorded == 1
    assert shapes(recorder) == ["2x2, 2x2"]


def test_no_more_than_warm():
    recorder = record(1)
    assert recorder.num_recorded == 0
    assert recorder.operators() == []


def test_never_started(tmp_path):
    recorder = TraceRecorder(CPU, 1, 1)
    recorder.stop()
    recorder.export(tmp_path / "trace.json.gz")
    assert recorder.operators() == []
    assert list(tmp_path.iterdir()) == []


def test_running_until_stopped():
    recorder = TraceRecorder(CPU, 1, 3)
    assert not recorder.is_running
    recorder.enter("data")
    assert recorder.is_running
    recorder.stop()
    assert not recorder.is_running
    recorder.stop()


def test_the_file_has_the_parts_as_ranges(tmp_path):
    path = tmp_path / "new" / "trace.json.gz"
    record(4, warmup=2, active=2).export(path)
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert ranges.count(PARTS["data"]) == ranges.count(PARTS["forward"]) == 2
    assert [event["name"] for event in events].count("aten::mm") == 2
    assert [other.name for other in path.parent.iterdir()] == ["trace.json.gz"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_a_gpu():
    recorder = TraceRecorder(torch.device("cuda"), 1, 1)
    matrix = torch.ones(512, 512, device="cuda")
    for part in ("forward", None, "forward", None):
        recorder.enter(part)
        torch.mm(matrix, matrix)
    recorder.stop()
    assert recorder.operators()[0].name == "aten::mm"
    assert recorder.operators()[0].seconds > 0
