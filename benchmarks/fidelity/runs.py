"""Start what is missing of the runs of `convergence.py`, several at a time, each going on where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fidelity.arms import Job

__all__ = ["is_complete", "run_all"]


def run_all(jobs: Iterable[Job], folder: Path, dataset_dir: Path, parallel: int = 1) -> None:
    """Run what is not complete, in the order given.

    Args:
        jobs: what there shall be.
        folder: of the runs.
        dataset_dir: the datalist that all of them read.
        parallel: processes at once, one thread each.

    Raises:
        RuntimeError: a run failed; the others were left to end.
    """
    missing = [job for job in dict.fromkeys(jobs) if not is_complete(folder / job.name, job)]
    with ThreadPoolExecutor(parallel) as pool:
        ended = [pool.submit(_run, job, folder / job.name, dataset_dir) for job in missing]
        failures = [str(error) for error in (one.exception() for one in ended) if error]
    if failures:
        raise RuntimeError("\n\n".join(failures))


def is_complete(folder: Path, job: Job) -> bool:
    """Whether there is a complete run of just this job."""
    report = folder / "run_report.json"
    if not report.exists():
        return False
    found = json.loads(report.read_text(encoding="utf-8"))
    nested = {key: value for key, value in job.overrides.items() if "::" not in key}
    return found["status"] == "completed" and all(found["config"].get(key) == value for key, value in nested.items())


def _run(job: Job, folder: Path, dataset_dir: Path) -> None:
    """One run in a process of its own."""
    overrides = {**job.overrides, "dataset_dir": dataset_dir, "output_dir": folder, "resume": True}
    options = [f"--{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(job.files), *options]
    started = time.monotonic()
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\nended with {result.returncode}:\n{_tail(result.stderr)}")
    print(f"{job.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _tail(text: str) -> str:
    """The end of what a process said."""
    lines: Sequence[str] = text.strip().splitlines()
    return "\n".join(lines[-20:])
