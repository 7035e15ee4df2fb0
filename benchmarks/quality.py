"""What a network learns from the same samples: AdamW and LionLARS on one loss, the conductor on its three terms.

    python benchmarks/quality.py [--runs output/quality] [--seeds 3] [--out table.md]

The demo's network and phantoms; 670 optimizer steps of three micro-batches of two volumes for every method. A seed
decides initial weights, crops, masks and which phantoms validate; methods share it, so the last columns compare seed by
seed. Medians; brackets hold the smallest and the largest. Runs that are complete are not repeated. About half an hour
on one core.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import fire
from tables import spread, table

CONFIGS = Path(__file__).parents[1] / "bundles" / "pretrain" / "configs"
RECIPE = {"epochs": 10, "steps_per_epoch": 67, "batch_size": 2, "accumulation_steps": 3, "val_interval": 2}
METRICS = {"val_mean_loss": "structural loss", "val_mean_l2": "L2"}


class Method(NamedTuple):
    """How to start a run, and how often each micro-batch goes backward."""

    label: str
    passes: int
    overlays: tuple[str, ...]
    overrides: dict[str, object]


METHODS = {
    "adamw": Method("AdamW, one loss", 1, ("adamw",), {"learning_rate": 2e-3}),
    "single": Method("LionLARS, one loss", 1, ("single_loss",), {"learning_rate": 3e-5}),
    "classic": Method("conductor + LionLARS, classic", 3, (), {"learning_rate": 3e-5, "accumulation": "classic"}),
    "stochastic": Method(
        "conductor + LionLARS, stochastic", 1, (), {"learning_rate": 3e-5, "accumulation": "stochastic"}
    ),
}


def main(runs: str = "output/quality", seeds: int = 3, out: str | None = None) -> None:
    """Run what is missing and print the table.

    Args:
        runs: folder of the runs.
        seeds: runs of each method.
        out: file for the table as well.
    """
    folder = Path(runs)
    for seed in range(seeds):
        for name, method in METHODS.items():
            run(method, seed, folder / f"{name}_{seed}")
    titles = ["method", "backward passes", *METRICS.values(), *(f"{metric} - AdamW's" for metric in METRICS.values())]
    text = table(titles, rows(folder, seeds))
    print(text)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")


def run(method: Method, seed: int, folder: Path) -> None:
    """One run, unless it is there."""
    overrides = RECIPE | method.overrides | {"seed": seed}
    if is_complete(folder / "run_report.json", overrides):
        return
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "demo", *method.overlays)]
    options = [f"--{key}={value}" for key, value in (overrides | {"output_dir": folder.resolve()}).items()]
    print(f"{method.label}, seed {seed}", file=sys.stderr)
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), *options]
    result = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\nended with {result.returncode}:\n{result.stderr[-2000:]}")


def is_complete(report: Path, overrides: dict[str, object]) -> bool:
    """Whether there is a complete run of just this recipe."""
    if not report.exists():
        return False
    found = json.loads(report.read_text(encoding="utf-8"))
    return found["status"] == "completed" and all(found["config"].get(key) == value for key, value in overrides.items())


def rows(folder: Path, seeds: int) -> list[list[str]]:
    """The table's rows."""
    found = {name: [last(folder / f"{name}_{seed}") for seed in range(seeds)] for name in METHODS}
    lines = []
    for name, method in METHODS.items():
        both = list(zip(found[name], found["adamw"], strict=True))
        values = [spread([one[metric] for one, _ in both], "{:.3f}") for metric in METRICS]
        differences = [spread([one[metric] - adamw[metric] for one, adamw in both], "{:+.3f}") for metric in METRICS]
        lines.append([method.label, str(method.passes), *values, *differences])
    return lines


def last(folder: Path) -> dict[str, float]:
    """The last validation of a run."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    return {metric: float(row[metric]) for metric in METRICS}


if __name__ == "__main__":
    fire.Fire(main)
