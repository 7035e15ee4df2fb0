"""How much sooner BertsWin reconstructs what a ViT-MAE does: in epochs, FLOPs and seconds.

    python benchmarks/convergence.py [--labels FILE] [--output output/convergence] [--arms vit_l2,l2] [--seeds 3]
        [--only tune,train,ablate,transfer,seconds,page] [--parallel 2] [--out docs/results]

The arms are those of `fidelity/arms.py`: lists of the bundle's configs, so that each can be run alone. All have the
same volumes, crops, masks, samples per epoch and optimizer steps. The stages, one after the other:

- *tune*: a few learning rates for every arm, the same short budget for each, a seed that is not used again; the one
  with the least loss on held-out volumes is taken, the loss being the arm's own. The baseline's are tried once more in
  runs as long as those that everything is measured by, and these decide.
- *train*: every arm for several numbers of epochs (its horizons), each run with a schedule of its own, so that
  what is compared are finished runs. Seeds decide weights, crops and masks; arms share them. Held-out volumes and their
  masks are always the same.
- *ablate*: one change at a time to the recipes of BertsWin, at equal epochs.
- *transfer*: what every network so trained is worth with one and four labelled joints, see `fidelity/transfer.py`.
- *seconds*: a training sample of every arm, the arms taking turns; processor time of one thread.
- *page*: `convergence.md`, its pictures and its table, of whatever is there.

Volumes are phantoms and, with ``--labels``, semi-synthetic scans of a jaw's label map (that of 3D Slicer's sample
PostDentalSurgery, which DentalSegmentator's repository holds, for the figures in docs). Runs that are complete, of the
same configuration and volumes, are not repeated, and one that was stopped goes on where it was, bit for bit. On one
core that has nothing else to do a ViT-MAE epoch takes ten seconds, BertsWin's 15, the conductor's 25.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from fidelity.transfer import fine_tune_all, transfer_rows
from fidelity.volumes import (
    DEFORM_MM,
    NUM_PHANTOMS,
    NUM_SCANS,
    PHANTOMS_PER_FOLD,
    SCANS_PER_FOLD,
    SPACING_MM,
    make_volumes,
)

from bertswin_ext.hardware import processor_name

LABELS = "PostDentalSurgery_Segmentation.nii.gz"
ROOT = Path(__file__).parents[1]
STAGES = ("tune", "train", "ablate", "transfer", "seconds", "page")
SAMPLES_PER_EPOCH, ROUNDS = 200, 5
LOSS = Metric("val_mean_loss", "held-out loss", False, float("nan"))
GOALS = [
    ("l2", "epochs", 5.8),
    ("lion_lars", "epochs", 15.0),
    ("conductor", "epochs", 15.0),
    ("conductor", "seconds", 3.0),
]
SHOWN = (0, 14)
DRAWS = (0, 1)
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
        arms: some of `ARMS`, to tune, train and change; seconds and page are always of all.
        seeds: how many, or which, to train and change; the page is of all that there are.
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
        run_all(training(names, chosen, runs, dataset_dir), runs, dataset_dir, parallel)
    if "ablate" in stages:
        run_all(changes(names, chosen, runs, dataset_dir), runs, dataset_dir, parallel)
    if "transfer" in stages:
        trained = training(names, chosen, runs, dataset_dir)
        fine_tune_all(trained, runs, dataset_dir, folder / "transfer.csv", draws=DRAWS)
    if "seconds" in stages:
        measure(folder / "seconds.csv", dataset_dir)
    if "page" in stages:
        write_page(report(folder, dataset_dir, labels), Path(out))


def _listed(values: str | Sequence[str]) -> list[str]:
    """What fire makes of a list."""
    return values.split(",") if isinstance(values, str) else list(values)


# --- runs ---


def tuning(arms: Iterable[str]) -> list[Job]:
    """All learning rates of arms, the short runs first."""
    jobs = [
        Job(arm, epochs, rate, TUNING_SEED) for arm in arms for epochs in ARMS[arm].tuning for rate in ARMS[arm].rates
    ]
    return sorted(jobs, key=lambda job: job.epochs)


def training(arms: Iterable[str], seeds: Sequence[int], runs: Path, dataset_dir: Path) -> list[Job]:
    """All horizons and seeds of arms, seed by seed, the short ones first."""
    rates = {arm: chosen_rate(arm, runs, dataset_dir) for arm in arms}
    pairs = [(arm, epochs) for arm in rates for epochs in ARMS[arm].horizons]
    jobs = [Job(arm, epochs, rates[arm], seed) for seed in seeds for arm, epochs in pairs]
    return sorted(jobs, key=lambda job: (seeds.index(job.seed), job.epochs))


def changes(arms: Iterable[str], seeds: Sequence[int], runs: Path, dataset_dir: Path) -> list[Job]:
    """All changes of the recipes of arms, and the recipes themselves, seed by seed."""
    changed = dict.fromkeys(change.arm for change in CHANGES.values() if change.arm in set(arms))
    rates = {arm: chosen_rate(arm, runs, dataset_dir) for arm in changed}
    names = [*((arm, "") for arm in rates), *((one.arm, name) for name, one in CHANGES.items() if one.arm in rates)]
    return [Job(arm, ABLATION_EPOCHS, rates[arm], seed, name) for seed in seeds for arm, name in names]


def chosen_rate(arm: str, runs: Path, dataset_dir: Path) -> float:
    """The learning rate with the least loss after the longest tuning runs, by the loss that the arm is trained on."""
    decisive = [job for job in tuning([arm]) if job.epochs == ARMS[arm].tuning[-1]]
    found = {job.rate: _final(job, runs, dataset_dir) for job in decisive}
    if any(value is None for value in found.values()):
        raise SystemExit(f"The learning rates of {arm} are not tuned yet: run the stage `tune` first.")
    return min(found, key=lambda rate: (found[rate] != found[rate], found[rate]))


def is_tuned(arm: str, runs: Path, dataset_dir: Path) -> bool:
    """Whether all its learning rates have been tried."""
    return all(_final(job, runs, dataset_dir) is not None for job in tuning([arm]))


def _final(job: Job, runs: Path, dataset_dir: Path) -> float | None:
    """Held-out loss at the end of a run; None if it has not ended."""
    return _read(job, runs).final(LOSS) if is_complete(runs / job.name, job, dataset_dir) else None


def _read(job: Job, runs: Path) -> Run:
    """What is there of a run."""
    keys = [metric.key for metric in (LOSS, *METRICS)]
    table = runs / job.name / "metrics.csv"
    return read_run(table, ARMS[job.arm].label, job.seed, job.epochs, SAMPLES_PER_EPOCH, keys)


# --- costs ---


def measure(table: Path, dataset_dir: Path) -> None:
    """Append whole rounds of all arms until there are enough."""
    for number in range(min((len(rounds) for rounds in read_seconds(table).values()), default=0), ROUNDS):
        seconds = {arm: measure_seconds(arm, dataset_dir) for arm in ARMS}
        is_new = not table.exists()
        with table.open("a", encoding="utf-8", newline="") as file:
            rows = [[number, arm, f"{value:.6f}"] for arm, value in seconds.items()]
            csv.writer(file).writerows([["round", "arm", "seconds"]] * is_new + rows)


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


def ablations(arms: Iterable[str], seeds: Sequence[int], runs: Path, dataset_dir: Path) -> Iterator[Ablation]:
    """Of every recipe itself, and of every change that has been tried with all seeds that the recipe was."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in changes(arms, seeds, runs, dataset_dir):
        if is_complete(runs / job.name, job, dataset_dir):
            groups.setdefault((job.arm, job.change), []).append(job)
    for (arm, name), jobs in groups.items():
        if [job.seed for job in jobs] == [job.seed for job in groups.get((arm, ""), ())]:
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
    """Everything that there is of tuned arms."""
    runs, seconds = folder / "runs", read_seconds(folder / "seconds.csv")
    tuned = [arm for arm in ARMS if is_tuned(arm, runs, dataset_dir)]
    started = [
        job for job in training(tuned, _seeds(runs), runs, dataset_dir) if (runs / job.name / "metrics.csv").exists()
    ]
    before = values_before_training(Job(BASELINE, TUNING_EPOCHS, ARMS[BASELINE].rates[0], 0), dataset_dir)
    return Report(
        runs=[_read(job, runs) for job in started],
        arms=[facts(arm, seconds.get(arm, ())) for arm in tuned],
        baseline=ARMS[BASELINE].label,
        metrics=with_starts(before),
        goals=[Goal(ARMS[arm].label, quantity, least) for arm, quantity, least in GOALS if arm in tuned],
        setting=_setting(bool(labels)),
        tried=[tried for arm in tuned for tried in _tried(arm, runs, dataset_dir)],
        ablations=list(ablations(tuned, _seeds(runs), runs, dataset_dir)),
        transfer=transfer_rows(folder / "transfer.csv", started, runs, dataset_dir, _masked_mse(runs)),
        examples=examples(_shown(started, runs, dataset_dir), runs, dataset_dir, SHOWN if labels else SHOWN[:1]),
        commands=[*COMMANDS, *((f"{ARMS[arm].label} alone", _alone(arm, runs, dataset_dir)) for arm in tuned)],
    )


def _masked_mse(runs: Path) -> Callable[[Job], float]:
    """What a run's reconstruction is judged by, at its end."""
    return lambda job: _read(job, runs).final(METRICS[0])


def _shown(jobs: Sequence[Job], runs: Path, dataset_dir: Path) -> dict[str, Job]:
    """The first seed's runs of the longest horizon that all arms have, by label."""
    first = min((job.seed for job in jobs), default=0)
    ended = [job for job in jobs if job.seed == first and is_complete(runs / job.name, job, dataset_dir)]
    horizons = [{job.epochs for job in ended if job.arm == arm} for arm in dict.fromkeys(job.arm for job in ended)]
    longest = max(set.intersection(*horizons), default=0) if horizons else 0
    return {ARMS[job.arm].label: job for job in ended if job.epochs == longest}


def _alone(arm: str, runs: Path, dataset_dir: Path) -> str:
    """How to train an arm by hand, on phantoms that it writes itself."""
    job = Job(arm, ARMS[arm].horizons[-1], chosen_rate(arm, runs, dataset_dir), 0)
    files = [Path(file).relative_to(ROOT).as_posix() for file in job.files]
    options = " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in job.overrides.items())
    return f'python -m monai.bundle run --config_file "{files}" {options}'


def _seeds(runs: Path) -> list[int]:
    """Seeds that runs were started with."""
    found = {int(path.name.rpartition("seed")[2]) for path in runs.glob("*_seed*")}
    return sorted(found - {TUNING_SEED})


def _tried(arm: str, runs: Path, dataset_dir: Path) -> list[Tried]:
    """Learning rates of an arm; one is chosen by its longest runs."""
    best, last = chosen_rate(arm, runs, dataset_dir), ARMS[arm].tuning[-1]
    values = [(job, _final(job, runs, dataset_dir)) for job in tuning([arm])]
    return [
        Tried(ARMS[arm].label, job.rate, job.epochs, value, job.rate == best and job.epochs == last)
        for job, value in values
        if value is not None
    ]


def _setting(with_scans: bool) -> list[str]:
    """Data, sizes and machine."""
    held_out = NUM_PHANTOMS // PHANTOMS_PER_FOLD, NUM_SCANS // SCANS_PER_FOLD
    phantoms = (
        f"{NUM_PHANTOMS} phantoms of {SPACING_MM} mm, {NUM_PHANTOMS - held_out[0]} to train on, the others held out"
    )
    scans = (
        f"; {NUM_SCANS} semi-synthetic scans of one jaw, each deformed by up to {DEFORM_MM:g} mm, both joints: "
        f"{NUM_SCANS - held_out[1]} to train on, the others held out"
    )
    return [
        f"data: {phantoms}{scans if with_scans else ''}",
        "crops of 64^3 voxels (44.8 mm, the paper's), random within the paper's range, rotated, scaled, mirrored; "
        "HU warp and cone-beam noise on the input; patches of 8^3, 75 % of all tokens hidden",
        f"{SAMPLES_PER_EPOCH} samples an epoch, four in an optimizer step",
        "networks 192 wide, 4 blocks, 6 heads; BertsWin's windows 4^3; the ViT-MAE's decoder 96 wide, 2 blocks",
        "5 % of a run are warm-up, the rest a cosine down to 1e-6; bfloat16 autocast; validation in float32",
        "FLOPs of arms in which mask tokens sit blocks out are an upper bound, windows being counted as full",
        f"measured on {processor_name()}, one thread, torch {torch.__version__}",
    ]


if __name__ == "__main__":
    fire.Fire(run)
