"""Versions for reports."""

import platform

import numpy
import pytest
import torch

import bertswin_ext
from bertswin_ext.versions import versions_of


def test_versions_are_those_of_the_packages():
    assert versions_of("bertswin_ext", "torch", "numpy") == {
        "bertswin_ext": bertswin_ext.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def test_versions_are_plain_text():
    """The version of torch is a class of its own, which JSON and comparisons see through, but pickles do not."""
    assert {type(version) for version in versions_of("torch").values()} == {str}


def test_a_package_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match="bertswin_nowhere"):
        versions_of("bertswin_nowhere")
