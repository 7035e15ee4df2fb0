"""The convergence benchmark's modules, which lie outside of the package."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def imported(monkeypatch):
    """Import by name; nothing of it is left behind."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("convergence", "few_labels", "fidelity", "tables"):
            del sys.modules[name]


@pytest.fixture
def module(imported):
    return lambda name: imported(f"fidelity.{name}")


@pytest.fixture
def curves(module):
    return module("curves")


@pytest.fixture
def reaching(module):
    return module("reaching")


@pytest.fixture
def mse(curves):
    return curves.Metric("mse", "masked MSE", False, 1.0)


@pytest.fixture
def ssim(curves):
    return curves.Metric("ssim", "SSIM", True, 0.0)
