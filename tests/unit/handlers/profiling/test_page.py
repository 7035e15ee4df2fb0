"""What a reader finds on the page of a profile."""

import re
from dataclasses import replace

import pytest

from bertswin_ext.handlers.profiling.facts import ProfileFacts
from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.operator_times import OperatorTime
from bertswin_ext.handlers.profiling.page import duration, profile_page, quantity
from tests.unit.handlers.profiling.machine import MACHINE

SECONDS = {
    "data": 0.02,
    "prepare": 0.03,
    "forward": 0.05,
    "loss": 0.012,
    "backward": 0.078,
    "step": 0.005,
    "rest": 0.005,
}
FACTS = ProfileFacts(
    machine=MACHINE,
    timed=(4, 13),
    traced=(15, 17),
    iterations_per_step=1,
    samples=4,
    iteration_seconds=[0.15, 0.25],
    part_seconds=SECONDS,
    peak_bytes={"of the process": 1_270_000_000},
    operations=9_000_000_000,
    operators=[OperatorTime(f"aten::op{i}", "", 0.01, 2, 0.05) for i in range(12)],
    shapes=[OperatorTime("aten::mm", f"{i}x{i}" if i else "", 0.01, 2, 0.05) for i in range(9)],
)


def changed(facts=FACTS, **machine):
    return replace(facts, machine=replace(facts.machine, **machine))


def test_the_first_lines_are_what_most_want_to_know():
    lines = profile_page(FACTS).splitlines()
    assert lines[2] == (
        "**200 ms per iteration** (150 ms to 250 ms), **20 samples per second, 10 % of the time waiting for data.**"
    )
    assert lines[4].startswith("Means of iterations 4 to 13, each with 4 samples, timed while nothing was recorded.")


def test_every_part_with_its_share():
    page = profile_page(FACTS)
    for part, seconds in SECONDS.items():
        assert f"| {PARTS[part]} | {duration(seconds)} | {round(100 * seconds / 0.2, 1):g}" in page.replace(
            ".0 %", " %"
        )
    assert re.findall(r"\| (█*) \|", page)[1:8] == [n * "█" for n in (3, 4, 8, 2, 12, 1, 1)]


def test_work_against_what_the_device_can_do():
    page = profile_page(FACTS)
    assert (
        "- 9 GFLOP per iteration in products, convolutions and attention: 45 GFLOP/s, 50 % of the 90 GFLOP/s with "
        "which this device multiplies large matrices in float32."
    ) in page
    assert "- Peak memory of the process: 1.27 GB." in page
    assert "FLOP" not in profile_page(replace(FACTS, operations=None))


def test_ten_operators_and_six_shapes():
    page = profile_page(FACTS, "trace.json.gz")
    assert re.findall(r"`aten::(op\d+)`", page) == [f"op{i}" for i in range(10)]
    assert re.findall(r"`aten::mm` \| (\S+) \|", page) == [f"{i}x{i}" for i in range(1, 7)]
    assert "From the trace of iterations 15 to 17;" in page
    assert "open `trace.json.gz` in https://ui.perfetto.dev" in page


def test_without_a_trace():
    page = profile_page(replace(FACTS, traced=None, operators=[], shapes=[], notes=["The run ended early."]))
    assert page.splitlines()[2] == "The run ended early."
    assert "operator |" not in page
    assert "perfetto" not in page


def test_one_sample():
    assert "each with 1 sample, timed" in profile_page(replace(FACTS, samples=1.0))


def test_a_trace_of_one_iteration():
    assert "trace of iteration 15;" in profile_page(replace(FACTS, traced=(15, 15)))


def test_machine():
    page = profile_page(FACTS)
    assert "- A Processor, 8 cores; 1 process with 8 threads." in page
    assert "- BertsWinMAE, 612 k parameters, float32." in page
    assert "- Data loader: `num_workers` 2, 50 % of the volumes in memory." in page
    assert "- torch 2.13, python 3.11." in page
    assert "`num_workers` ?." in profile_page(changed(num_workers=None, cached_share=None))


def test_steps_of_several_iterations_and_several_processes():
    page = profile_page(replace(changed(ranks=4), iterations_per_step=5))
    assert "5 iterations make a step." in page
    assert "20 samples per second (80 in 4 processes)" in page
    assert "4 processes with 8 threads" in page
    assert "make a step" not in profile_page(FACTS)


def test_a_gpu_says_how_busy_it_is():
    assert "- The GPU computes 60 % of the time." in profile_page(changed(device_type="cuda"))
    assert "The GPU" not in profile_page(FACTS)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.00001, "0.01 ms"), (0.9996, "1 s"), (0.999, "999 ms"), (1.0, "1 s"), (83.25, "83.2 s")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_quantity():
    assert [quantity(n) for n in (0, 999, 1000, 85_800_000, 4.2e9, 3e12)] == [
        "0 ",
        "999 ",
        "1 k",
        "85.8 M",
        "4.2 G",
        "3 T",
    ]
