"""For all tests: several processes run them side by side, with one thread each."""

import os
from pathlib import Path

import pytest

# torch and what it starts read this when they are imported
os.environ["OMP_NUM_THREADS"] = "1"

MOST_WORKERS = 4


def pytest_xdist_auto_num_workers(config):
    """One process for each core; named files run here, where prints are seen and nothing is imported twice."""
    if all(Path(argument.split("::")[0]).is_file() for argument in config.args):
        return 0
    cores = len(os.sched_getaffinity(0))
    return min(cores, MOST_WORKERS) if cores > 1 else 0


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """What a process reports to the first one; names of files that are no text, in its output say, cannot be sent."""
    return as_utf8((yield))


def as_utf8(value):
    """The same with escapes for what UTF-8 has no bytes for, however nested."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {as_utf8(key): as_utf8(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_utf8, value))
    return value
