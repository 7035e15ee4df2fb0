"""The parts of messages."""

import numpy as np
import pytest
import torch

from bertswin_ext.errors import fault_of_user, listed, listed_under, root_cause, times


def test_faults_are_counted_and_listed():
    assert listed(["a is missing."], "x.json") == "1 fault in x.json:\n  - a is missing."
    assert listed(["a.", "b."], "x.json") == "2 faults in x.json:\n  - a.\n  - b."
    assert listed_under("nothing works", ["a.", "b."]) == "nothing works:\n  - a.\n  - b."


@pytest.mark.parametrize(
    ("numbers", "form", "text"),
    [
        ((2, 3, 4), "g", "2 x 3 x 4"),
        (np.array([0.4, 0.5, 1.0]), "g", "0.4 x 0.5 x 1"),
        (np.array([0.41, 0.5, 1.0]), ".1f", "0.4 x 0.5 x 1.0"),
        ((), "g", ""),
    ],
)
def test_products(numbers, form, text):
    assert times(numbers, form) == text


def test_root_cause_goes_under_wrappers_only():
    inner = OSError("bad checksum")
    named = ValueError("a.nii: cannot be read")
    named.__cause__ = inner
    wrapper = RuntimeError("applying transform")
    wrapper.__cause__ = named
    outer = RuntimeError("Failed to instantiate component")
    outer.__cause__ = wrapper
    alone = RuntimeError("out of memory")
    assert root_cause(outer) is named
    assert root_cause(alone) is alone


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError("no room"),
        FileNotFoundError(2, "No such file"),
    ],
)
def test_what_the_program_is_not_at_fault_for(error):
    assert fault_of_user(error) == str(error)


def test_what_the_program_is_at_fault_for():
    assert fault_of_user(RuntimeError("shapes differ")) is None
    assert fault_of_user(KeyError("x")) is None
