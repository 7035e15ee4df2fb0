"""Mixed precision only where the hardware has it."""

import os

import pytest
import torch

from bertswin_ext.hardware import multiplies_bfloat16, processor_name, usable_cores


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_its_instructions(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert multiplies_bfloat16("cpu") is expected
    assert multiplies_bfloat16(torch.device("cpu")) is expected


def test_a_torch_that_does_not_tell_means_no(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert multiplies_bfloat16("cpu") is False


@pytest.mark.parametrize("supported", [True, False])
def test_a_gpu_must_do_it_without_emulation(monkeypatch, supported):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: supported and not including_emulation
    )
    assert multiplies_bfloat16("cuda:1") is supported


def test_without_a_gpu_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert multiplies_bfloat16("cuda") is False


def test_cores_are_those_of_the_job_and_not_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 128


def test_a_processor_has_a_name():
    assert processor_name().strip()
