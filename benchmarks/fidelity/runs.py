"""Start what is missing of the runs of `convergence.py`, several at a time, each going on where it was stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from bertswin_ext.data import load_datalist
from fidelity.arms import Job
from fidelity.configs import parser_of

__all__ = ["is_complete", "run_all"]

# where a run lies, what is said and what is kept of it, which does not change what it finds
_FREE = ("_desc_", "bundle_root", "dataset_dir", "output_dir", "resume", "cpu_hint", "checkpoint")


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
    missing = [job for job in dict.fromkeys(jobs) if not is_complete(folder / job.name, job, dataset_dir)]
    with ThreadPoolExecutor(parallel) as pool:
        ended = [pool.submit(_run, job, folder / job.name, dataset_dir) for job in missing]
        failures = [str(error) for error in (one.exception() for one in ended) if error]
    if failures:
        raise RuntimeError("\n\n".join(failures))


def is_complete(folder: Path, job: Job, dataset_dir: Path) -> bool:
    """Whether there is a complete run of this job: of its configuration and of these volumes.

    What a configuration of today has and that of the run had not does not count, so that new settings leave old runs
    as they are.
    """
    report = folder / "run_report.json"
    if not report.exists():
        return False
    found = json.loads(report.read_text(encoding="utf-8"))
    same_data = found["data"]["sha256"] == _sha256(str(dataset_dir))
    return found["status"] == "completed" and same_data and _agrees(found["config"], _configuration(job), _FREE)


@cache
def _configuration(job: Job) -> dict[str, Any]:
    """What a run of a job reports as its configuration."""
    configuration: dict[str, Any] = json.loads(json.dumps(parser_of(job.files, job.overrides).config))
    return configuration


@cache
def _sha256(dataset_dir: str) -> str:
    """Hash of the split."""
    return load_datalist(dataset_dir).sha256


def _agrees(found: Any, wanted: Any, free: tuple[str, ...] = ()) -> bool:
    """Whether two configurations are the same in everything that both of them have."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return all(_agrees(found[key], wanted[key]) for key in found.keys() & wanted.keys() - set(free))
    return bool(found == wanted)


def _run(job: Job, folder: Path, dataset_dir: Path) -> None:
    """One run in a process of its own."""
    overrides = {**job.overrides, "dataset_dir": dataset_dir, "output_dir": folder, "resume": True}
    options = [f"--{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(job.files), *options]
    started = time.monotonic()
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if result.returncode:
        end = "\n".join(result.stderr.strip().splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)}\nended with {result.returncode}:\n{end}")
    print(f"{job.name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
