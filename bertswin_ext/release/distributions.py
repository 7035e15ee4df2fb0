"""The package's sdist and wheel, the same byte for byte from the same commit."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from bertswin_ext.release.archives import rewrite_sdist, rewrite_wheel

__all__ = ["build_distributions"]

# the hooks of PEP 517; pip would call the same ones, in an environment that it downloads
_PROGRAM = """
import sys
from setuptools import build_meta
output = sys.argv[1]
build_meta.build_sdist(output)
build_meta.build_wheel(output)
"""


def build_distributions(source: str | Path, output: str | Path, time: int) -> list[Path]:
    """Build the sdist and the wheel of a package with the setuptools that is installed; nothing is downloaded.

    Args:
        source: a copy of the repository, which is built in.
        output: folder to write to.
        time: time of the files in the archives, seconds since 1970.

    Returns:
        The sdist and the wheel.

    Raises:
        ValueError: setuptools is not installed or cannot build the package.
    """
    if find_spec("setuptools") is None:
        raise ValueError("The sdist and the wheel are built by setuptools, which is not installed. Install it.")
    output = Path(output).resolve()
    output.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(time), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", _PROGRAM, str(output)]
    built = subprocess.run(  # noqa: S603 - our own program
        command, cwd=source, env=environment, capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise ValueError(f"setuptools could not build the package in {source}:\n{built.stderr.strip()[-2000:]}")
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    rewrite_sdist(sdist, time)
    rewrite_wheel(wheel)
    return [sdist, wheel]
