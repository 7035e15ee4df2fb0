"""Modules of the convergence benchmark, and metrics of invented trainings."""

import pytest


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
