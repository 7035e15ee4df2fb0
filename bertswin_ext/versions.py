"""Which versions compute, for reports."""

from __future__ import annotations

import platform
from importlib import import_module

__all__ = ["versions_of"]


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of packages as they say them themselves, and of Python.

    Args:
        packages: names to import; each has a ``__version__``.

    Example:
        >>> sorted(versions_of("numpy", "torch"))
        ['numpy', 'python', 'torch']
    """
    found = {name: str(import_module(name).__version__) for name in packages}
    return {**found, "python": platform.python_version()}
