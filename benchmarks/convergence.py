"""How much sooner BertsWin reconstructs what a ViT-MAE does: in epochs, FLOPs and seconds.

    python benchmarks/convergence.py [--labels FILE] [--output output/convergence] [--arms vit_l2,l2] [--seeds 3]
        [--only tune,train,ablate,seconds,page] [--parallel 2] [--out docs/results]

The arms are those of `fidelity/arms.py`: lists of the bundle's configs, so that each can be run alone. All have the
same volumes, crops, masks, samples per epoch and optimizer steps. The stages, one after the other:

- *tune*: a few learning rates for every arm, the same short budget for each, a seed that is not used again; the one
  with the least masked MSE on held-out volumes is taken.
- *train*: every arm for several numbers of epochs (its horizons), each run with a schedule of its own, so that
  what is compared are finished runs. Seeds decide weights, crops and masks; arms share them. Held-out volumes and their
  masks are always the same.
- *ablate*: one change at a time to the recipes of BertsWin, at equal epochs.
- *seconds*: a training sample of every arm, the arms taking turns.
- *page*: `convergence.md`, its pictures and its table, of whatever is there.

Volumes are phantoms and, with ``--labels``, semi-synthetic scans of a jaw's label map (that of 3D Slicer's sample
PostDentalSurgery, which DentalSegmentator's repository holds, for the figures in docs). Runs that are complete are not
repeated, and one that was stopped goes on where it was, bit for bit. On one core: a ViT-MAE epoch takes ten seconds,
BertsWin's 15, the conductor's 25; all in all ten hours.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import torch
from fidelity.ablations import ABLATION_EPOCHS, CHANGES
from fidelity.arms import ARMS, BASELINE, TUNING_EPOCHS, TUNING_SEED, Job
from fidelity.comparing import ArmFacts, Goal
from fidelity.costs import cost_of, measure_seconds, paper_cost
from fidelity.curves import METRICS, Metric, Run, read_run, with_starts
from fidelity.extras import Ablation, Tried
from fidelity.held_out import examples, values_at_end, values_before_training
from fidelity.page import Report, write_page
from fidelity.runs import is_complete, run_all
from fidelity.volumes import make_volumes

from bertswin_ext.hardware import processor_name

LABELS = "PostDentalSurgery_Segmentation.nii.gz"
STAGES = ("tune", "train", "ablate", "seconds", "page")
SAMPLES_PER_EPOCH, ROUNDS = 200, 5
LOSS = Metric("val_mean_loss", "held-out loss", False, float("nan"))
MAIN = METRICS[0].key
GOALS = [
    ("l2", "epochs", 5.8),
    ("lion_lars", "epochs", 15.0),
    ("conductor", "epochs", 15.0),
    ("conductor", "seconds", 3.0),
]
SHOWN = (0, 14)
COMMANDS = [
    ("All of it", f"python benchmarks/convergence.py --labels {LABELS} --parallel 2"),
    ("The page, from the runs that are there", f"python benchmarks/convergence.py --labels {LABELS} --only page"),
]


def run(
    labels: str = "",
    output: str = "output/convergence",
    only: str | Sequence[str] = STAGES,
    arms: str | Sequence[str] = tuple(ARMS),
    seeds: int | Sequence[int] = 3,
    parallel: int = 1,
    out: str = "docs/results",
) -> None:
    """Run what is missing, and write the page.

    Args:
        labels: label map of a jaw with the values of DentalSegmentator, for semi-synthetic scans besides phantoms.
        output: folder of volumes and runs.
        only: some of the stages.
        arms: some of `ARMS`.
        seeds: how many, or which.
        parallel: runs at once, one thread each.
        out: folder of page, pictures and table.
    """
    stages, names, folder = _listed(only), _listed(arms), Path(output).resolve()
    for given, known, what in ((stages, STAGES, "only"), (names, ARMS, "arms")):
        unknown = sorted(set(map(str, given)) - set(known))
        if unknown:
            raise SystemExit(f"--{what} takes {', '.join(known)}, got {', '.join(unknown)}.")
    chosen = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in _listed(seeds)]
    runs, dataset_dir = folder / "runs", make_volumes(folder / "data", labels)
    if "tune" in stages:
        run_all(tuning(names), runs, dataset_dir, parallel)
    if "train" in stages:
        run_all(training(names, chosen, runs), runs, dataset_dir, parallel)
    if "ablate" in stages:
        run_all(changes(chosen, runs), runs, dataset_dir, parallel)
    if "seconds" in stages:
        measure(names, folder / "seconds.csv", dataset_dir)
    if "page" in stages:
        write_page(report(folder, dataset_dir, labels), Path(out))


def _listed(values: str | Sequence[str]) -> list[str]:
    """What fire makes of a list."""
    return values.split(",") if isinstance(values, str) else list(values)


# --- runs ---


def tuning(arms: Iterable[str]) -> list[Job]:
    """All learning rates of arms."""
    return [Job(arm, TUNING_EPOCHS, rate, TUNING_SEED) for arm in arms for rate in ARMS[arm].rates]


def training(arms: Iterable[str], seeds: Sequence[int], runs: Path) -> list[Job]:
    """All horizons and seeds of arms, seed by seed, the short ones first."""
    rates = {arm: chosen_rate(arm, runs) for arm in arms}
    jobs = [
        Job(arm, epochs, rate, seed) for seed in seeds for arm, rate in rates.items() for epochs in ARMS[arm].horizons
    ]
    return sorted(jobs, key=lambda job: (seeds.index(job.seed), job.epochs))


def changes(seeds: Sequence[int], runs: Path) -> list[Job]:
    """All changes of recipes, and the recipes, seed by seed."""
    rates = {arm: chosen_rate(arm, runs) for arm in dict.fromkeys(change.arm for change in CHANGES.values())}
    names = [*((arm, "") for arm in rates), *((change.arm, name) for name, change in CHANGES.items())]
    return [Job(arm, ABLATION_EPOCHS, rates[arm], seed, name) for seed in seeds for arm, name in names]


def chosen_rate(arm: str, runs: Path) -> float:
    """The learning rate with the least loss after the tuning budget, by the loss that the arm is trained on."""
    found = {job.rate: _final(job, runs) for job in tuning([arm])}
    missing = [rate for rate, value in found.items() if value is None]
    if missing:
        raise SystemExit(f"The learning rates of {arm} are not tuned yet: run the stage `tune` first.")
    return min(found, key=lambda rate: (found[rate] != found[rate], found[rate]))


def _final(job: Job, runs: Path) -> float | None:
    """Held-out loss at the end of a run; None if it has not ended."""
    return _read(job, runs).final(LOSS) if is_complete(runs / job.name, job) else None


def _read(job: Job, runs: Path) -> Run:
    """What is there of a run."""
    keys = [metric.key for metric in (LOSS, *METRICS)]
    table = runs / job.name / "metrics.csv"
    return read_run(table, ARMS[job.arm].label, job.seed, job.epochs, SAMPLES_PER_EPOCH, keys)


# --- costs ---


def measure(arms: Sequence[str], table: Path, dataset_dir: Path) -> None:
    """Append seconds of a sample, round by round, until there are enough."""
    found = read_seconds(table)
    for number in range(ROUNDS):
        for arm in arms:
            if len(found.get(arm, ())) <= number:
                seconds = measure_seconds(arm, dataset_dir)
                is_new = not table.exists()
                with table.open("a", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows([["arm", "seconds"]] * is_new + [[arm, f"{seconds:.6f}"]])


def read_seconds(table: Path) -> dict[str, tuple[float, ...]]:
    """Seconds of a sample by arm, one for each round."""
    found: dict[str, tuple[float, ...]] = {}
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found[row["arm"]] = (*found.get(row["arm"], ()), float(row["seconds"]))
    return found


def facts(arm: str, seconds: tuple[float, ...]) -> ArmFacts:
    """What the page says of an arm."""
    own = ARMS[arm]
    job = Job(arm, TUNING_EPOCHS, own.rates[0], 0)
    here, large = cost_of(job.files, job.overrides), paper_cost(arm)
    flops, large_flops = here.training(own.passes), large.training(own.passes)
    return ArmFacts(own.label, own.network, own.loss, own.update, here.parameters, flops, large_flops, seconds)


# --- page ---


def ablations(seeds: Sequence[int], runs: Path, dataset_dir: Path) -> Iterator[Ablation]:
    """Of every recipe itself, and of every change that has been tried with all seeds that the recipe was."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in changes(seeds, runs):
        if is_complete(runs / job.name, job):
            groups.setdefault((job.arm, job.change), []).append(job)
    for (arm, name), jobs in groups.items():
        if len(jobs) == len(groups.get((arm, ""), ())):
            found = [_final_values(job, runs, dataset_dir) for job in jobs]
            values = {metric.key: [one[metric.key] for one in found] for metric in METRICS}
            flops = cost_of(jobs[0].files, jobs[0].overrides).training(ARMS[arm].passes)
            group, words = (CHANGES[name].group, CHANGES[name].words) if name else ("", "")
            yield Ablation(ARMS[arm].label, group, words, ABLATION_EPOCHS, values, flops, is_reference=not name)


def _final_values(job: Job, runs: Path, dataset_dir: Path) -> dict[str, float]:
    """Fidelity at the end of a run, with the masks of all others."""
    if job.change and "masking_ratio" in CHANGES[job.change].overrides:
        return values_at_end(job, runs / job.name, dataset_dir)
    return _read(job, runs).points[-1].values


def report(folder: Path, dataset_dir: Path, labels: str) -> Report:
    """Everything that is there."""
    runs, seconds = folder / "runs", read_seconds(folder / "seconds.csv")
    tuned = [arm for arm in ARMS if all(_final(job, runs) is not None for job in tuning([arm]))]
    jobs = [job for job in training(tuned, _seeds(runs), runs) if (runs / job.name / "metrics.csv").exists()]
    before = values_before_training(Job(BASELINE, TUNING_EPOCHS, ARMS[BASELINE].rates[0], 0), dataset_dir)
    common = max((job.epochs for job in jobs if job.arm != BASELINE), default=0)
    shown = {ARMS[job.arm].label: job for job in jobs if (job.seed, job.epochs) == (0, common)}
    return Report(
        runs=[_read(job, runs) for job in jobs],
        arms=[facts(arm, seconds.get(arm, ())) for arm in tuned],
        baseline=ARMS[BASELINE].label,
        metrics=with_starts(before),
        goals=[Goal(ARMS[arm].label, quantity, least) for arm, quantity, least in GOALS if arm in tuned],
        setting=_setting(bool(labels)),
        tried=[tried for arm in tuned for tried in _tried(arm, runs)],
        ablations=list(ablations(_seeds(runs), runs, dataset_dir)) if set(tuned) >= {"l2", "structural"} else [],
        examples=examples(shown, runs, dataset_dir, SHOWN if labels else SHOWN[:1]),
        commands=COMMANDS,
    )


def _seeds(runs: Path) -> list[int]:
    """Seeds that runs were started with."""
    found = {int(path.name.rpartition("seed")[2]) for path in runs.glob("*_seed*")}
    return sorted(found - {TUNING_SEED})


def _tried(arm: str, runs: Path) -> list[Tried]:
    """Learning rates of an arm."""
    best = chosen_rate(arm, runs)
    jobs = tuning([arm])
    return [Tried(ARMS[arm].label, job.rate, job.epochs, _final(job, runs) or 0.0, job.rate == best) for job in jobs]


def _setting(with_scans: bool) -> list[str]:
    """Data, sizes and machine."""
    scans = "; 8 semi-synthetic scans of one jaw, each deformed by up to 3 mm, both joints: 6 to train on, 2 held out"
    return [
        f"data: 60 phantoms of 0.7 mm, 48 to train on and 12 held out{scans if with_scans else ''}",
        "crops of 64^3 voxels (44.8 mm, the paper's), random within the paper's range, rotated, scaled, mirrored; "
        "HU warp and cone-beam noise on the input; patches of 8^3, 75 % of all tokens hidden",
        "200 samples an epoch: 50 optimizer steps of four",
        "networks 192 wide, 4 blocks, 6 heads; BertsWin's windows 4^3; the ViT-MAE's decoder 96 wide, 2 blocks",
        "5 % of a run are warm-up, the rest a cosine down to 1e-6; bfloat16 autocast; validation in float32",
        f"measured on {processor_name()}, one thread, torch {torch.__version__}",
    ]


if __name__ == "__main__":
    fire.Fire(run)
