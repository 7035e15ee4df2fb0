"""Advice that follows from the numbers."""

from dataclasses import replace

import pytest
import torch

from bertswin_ext.handlers.profiling.facts import ProfileFacts
from bertswin_ext.handlers.profiling.hints import hints
from bertswin_ext.handlers.profiling.operator_times import OperatorTime
from tests.unit.handlers.profiling.machine import MACHINE

IDLE = replace(MACHINE, num_workers=0, cached_share=1.0, product_speeds={torch.float32: 1.0, torch.bfloat16: 1.0})
PRODUCTS = [OperatorTime("aten::mm", "", 0.06, 1.0, 0.6), OperatorTime("aten::add", "", 0.04, 1.0, 0.4)]
FAST = {torch.float32: 10.0, torch.bfloat16: 50.0}


def given(data=0.0, prepare=0.0, rest=0.0, forward=0.0, operators=PRODUCTS, **machine):
    """An iteration of one second with these shares; what is left goes backward."""
    parts = {"data": data, "prepare": prepare, "forward": forward, "loss": 0.0, "step": 0.0, "rest": rest}
    return ProfileFacts(
        machine=replace(IDLE, **machine),
        timed=(1, 2),
        traced=(3, 4),
        iterations_per_step=1,
        samples=1,
        iteration_seconds=[1.0],
        part_seconds={**parts, "backward": 1 - sum(parts.values())},
        operators=operators,
    )


def test_nothing_stands_out():
    assert hints(given(data=0.04, prepare=0.1, rest=0.05)) == [
        "Nothing stands out. Most of the time, 81 %, is backward."
    ]


def test_waiting_with_cores_to_spare():
    (hint,) = hints(given(data=0.23, device_type="cuda", threads=1, operators=[], num_workers=4, cached_share=0.5))
    assert hint == (
        "It waits for data 23 % of the time. `cache_rate` keeps 50 % of the volumes in memory: raise it. `num_workers` "
        "is 4, the machine has 8 cores: raise it."
    )


@pytest.mark.parametrize("kind", [{"num_workers": 0}, {"threads": 4, "num_workers": 4}])
def test_waiting_without_cores_to_spare(kind):
    (hint,) = hints(given(data=0.06, **kind))
    assert hint.endswith(f"All 8 cores are taken, so more `num_workers` (now {kind['num_workers']}) would not help.")
    assert "cache_rate" not in hint


def test_waiting_below_the_limit_is_no_hint():
    assert "waits" not in " ".join(hints(given(data=0.05)))


def test_faster_products():
    assert hints(given(product_speeds=FAST)) == [
        "Products of matrices take 60 % of the time, and in bfloat16 they are 5.0 times as fast on this device: "
        "`--amp true`."
    ]


@pytest.mark.parametrize(
    "unlike",
    [
        {"dtype": torch.bfloat16},
        {"mixes": False},
        {"product_speeds": {torch.float32: 50.0, torch.bfloat16: 10.0}},
        {"operators": []},
    ],
)
def test_products_that_would_not_be_faster(unlike):
    assert "amp" not in hints(given(**{"product_speeds": FAST, **unlike}))[0]


def test_cores_that_nobody_uses():
    assert hints(given(threads=2, num_workers=1)) == [
        "torch computes with 2 of 8 cores: set the environment variable OMP_NUM_THREADS to 7, unless other programs "
        "need them."
    ]
    assert "OMP" not in hints(given(threads=2, num_workers=6))[0]
    assert "OMP" not in hints(given(threads=2, ranks=4))[0]


def test_a_gpu_that_has_little_to_do():
    (hint,) = hints(given(device_type="cuda"))
    assert hint.startswith("The GPU has nothing to do 90 % of the time, waiting for data not counted:")
    busy = [OperatorTime("aten::add", "", 0.75, 1.0, 1.0)]
    assert hints(given(device_type="cuda", operators=busy)) == [
        "Nothing stands out. Most of the time, 100 %, is backward."
    ]


@pytest.mark.parametrize(
    ("parts", "start"),
    [({"prepare": 0.3}, "Preparing the batch"), ({"rest": 0.2}, "Handlers take 20 % of the time")],
)
def test_other_parts_that_are_too_long(parts, start):
    (hint,) = hints(given(**parts))
    assert hint.startswith(start)


def test_what_promises_most_comes_first_and_three_are_enough():
    facts = given(data=0.1, prepare=0.21, rest=0.3, threads=4, product_speeds=FAST)
    assert [hint.split()[0] for hint in hints(facts)] == ["torch", "Handlers", "Preparing"]
    assert len(hints(facts, most=5)) == 5
