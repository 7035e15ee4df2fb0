"""What pre-training is worth: segmentation learnt from 1, 2, 4 and 8 labelled joints, with and without it.

    python benchmarks/label_efficiency.py --encoder output/demo/encoder.pt --vit_encoder output/vit_mae/model.pt
        [--output output/label_efficiency] [--labelled 1,2,4,8] [--seeds 3] [--methods pretrained,scratch]
        [--dataset_dir DATALIST] [--size demo|base] [--steps 200] [--device cpu|cuda]

Methods: `BertsWinSegmenter` from a pre-trained encoder and from scratch, `ViTSegmenter` from the encoder of a ViT-MAE,
and MONAI's `SwinUNETR` from scratch. All have the same labelled joints, crops, loss, number of steps and schedule, and
but for `SwinUNETR` the same learning rates, see `METHODS`. A seed decides which joints are labelled (those of a smaller
number are among those of a larger one), the crops, and the initial weights; methods share it.

The networks are measured after the last step, on held-out joints, by `sliding_window` and `bertswin_ext.evaluation`:
Dice and HD95, mean over classes and joints. Phantoms by default, of another seed than those of the pre-training demo.

One row for each run is appended to ``runs.csv`` as soon as it has ended; runs that are there are not repeated.
``table.md`` and ``curve.png`` are made of it. Another data set wants another ``--output``. About a minute for a run on
one core, six for one of `SwinUNETR`.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import numpy as np
import torch
from few_labels import CLASS_NAMES, Crops, Data, Schedule, append_row, clock, digest, read_rows, score, train
from matplotlib.figure import Figure
from monai.networks.nets import SwinUNETR
from tables import table
from torch import nn
from torch.nn import functional as F

from bertswin_ext.data import load_datalist, write_phantoms
from bertswin_ext.networks.pretrained import load_pretrained
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter
from bertswin_ext.voxels import VOXELS

PHANTOM_SEED, NUM_HELD_OUT = 500, 8
COLORS = {"pretrained": "#1f6fb4", "scratch": "#8a8a8a", "vit": "#e07b28", "swin_unetr": "#5fa777"}


class Size(NamedTuple):
    """Sizes of data and networks."""

    crops: Crops
    network: dict[str, int]
    window_size: int
    swin: dict[str, int]
    phantom_size: int


SIZES = {
    "demo": Size(
        Crops(48, 8, 0.8, 2),
        {"hidden_size": 96, "num_layers": 4, "num_heads": 4, "stem_channels": 16, "decoder_channels": 8},
        3,
        {"feature_size": 12, "window_size": 4},
        60,
    ),
    "base": Size(Crops(224, 16, VOXELS.spacing_mm, 6), {}, 7, {"feature_size": 48, "use_checkpoint": True}, 256),
}


class PaddedSwinUNETR(nn.Module):
    """`SwinUNETR` for crops of any size: it wants multiples of 32, so there is air behind the crop."""

    def __init__(self, **arguments: int) -> None:
        super().__init__()
        self.network = SwinUNETR(1, len(CLASS_NAMES), **arguments)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (b, classes, i, j, k)."""
        i, j, k = x.shape[2:]
        padding = [part for size in (k, j, i) for part in (0, -size % 32)]
        return self.network(F.pad(x, padding, value=VOXELS.normalized(VOXELS.min_hu)))[:, :, :i, :j, :k]


class Method(NamedTuple):
    """A network, and the learning rates that suit it."""

    label: str
    make: Callable[[Size], nn.Module]
    encoder: str
    head_lr: float
    encoder_lr: float


def _bertswin(size: Size) -> nn.Module:
    return BertsWinSegmenter(size.crops.img_size, size.crops.patch_size, window_size=size.window_size, **size.network)


METHODS = {
    "pretrained": Method("BertsWin, pre-trained", _bertswin, "encoder", 5e-3, 5e-3),
    "scratch": Method("BertsWin, from scratch", _bertswin, "", 5e-3, 5e-3),
    "vit": Method(
        "ViT, pre-trained (MAE)",
        lambda size: ViTSegmenter(size.crops.img_size, size.crops.patch_size, **size.network),
        "vit_encoder",
        5e-3,
        5e-3,
    ),
    "swin_unetr": Method("SwinUNETR, from scratch", lambda size: PaddedSwinUNETR(**size.swin), "", 2e-3, 2e-3),
}


class Job(NamedTuple):
    """One run: everything its result depends on but the data."""

    method: str
    labelled: int
    seed: int
    size: str
    steps: int
    head_lr: float
    encoder_lr: float
    weights: str

    def key(self) -> tuple[str, ...]:
        """As in the file of runs."""
        return tuple(str(value) for value in self)


def run(
    output: str = "output/label_efficiency",
    labelled: Sequence[int] | int = (1, 2, 4, 8),
    seeds: Sequence[int] | int = 3,
    methods: Sequence[str] | str = tuple(METHODS),
    encoder: str = "",
    vit_encoder: str = "",
    dataset_dir: str = "",
    size: str = "demo",
    steps: int = 200,
    head_lr: float | None = None,
    encoder_lr: float | None = None,
    device: str = "cpu",
) -> None:
    """Run what is missing, and write table and curve.

    Args:
        output: folder of runs.csv, table.md, curve.png and the phantoms.
        labelled: numbers of labelled joints.
        seeds: how many, or which.
        methods: some of `METHODS`.
        encoder: encoder.pt of the pre-training bundle, with the non-overlapping stem.
        vit_encoder: model.pt or encoder.pt of the pre-training bundle with vit_mae.json.
        dataset_dir: datalist or folder with labels, instead of phantoms.
        size: "demo", or "base" for the paper's.
        steps: optimizer steps of a run.
        head_lr: learning rate of the decoder, instead of each method's own.
        encoder_lr: learning rate of the rest, instead of each method's own.
        device: "cpu" or "cuda".
    """
    if device == "cpu":
        torch.set_num_threads(1)
    numbers, names = _listed(labelled), _listed(methods)
    data = _data(dataset_dir, Path(output), SIZES[size], max(numbers))
    files = {"encoder": encoder, "vit_encoder": vit_encoder}
    chosen = {name: _file_of(name, files) for name in names}
    jobs = [
        Job(name, number, seed, size, steps, *_rates(name, head_lr, encoder_lr), digest(chosen[name]))
        for seed in (range(seeds) if isinstance(seeds, int) else seeds)
        for number in numbers
        for name in names
    ]
    runs = Path(output) / "runs.csv"
    for job in jobs:
        if job.key() not in read_rows(runs, Job._fields):
            _tell(f"{METHODS[job.method].label}, {job.labelled} labelled, seed {job.seed}")
            append_row(runs, job._asdict(), train_and_score(job, data, chosen[job.method], device))
    results = _results(runs, jobs)
    text = f"{result_table(results)}\n\n{_setting(jobs, data)}"
    (Path(output) / "table.md").write_text(text + "\n", encoding="utf-8")
    draw(results).savefig(Path(output) / "curve.png")
    print(text)


# --- one run ---


def train_and_score(job: Job, data: Data, weights: str, device: str) -> dict[str, float]:
    """Learn from the labelled joints, and measure on the held-out ones."""
    size, start = SIZES[job.size], clock(device)
    torch.manual_seed(job.seed)
    network = METHODS[job.method].make(size).to(device)
    if weights:
        load_pretrained(network, weights, size.crops.spacing_mm)
    schedule = Schedule(job.steps, job.head_lr, job.encoder_lr, job.seed)
    loss = train(network, size.crops, schedule, data.labelled(job.labelled, job.seed), device)
    trained = clock(device)
    scores = score(network, data.held_out, size.crops, device)
    seconds = {"train_seconds": trained - start, "score_seconds": clock(device) - trained}
    return {**scores, "loss": loss, **seconds}


# --- what to run ---


def _data(dataset_dir: str, output: Path, size: Size, most: int) -> Data:
    """Phantoms, or a datalist's training and validation items that have labels."""
    if dataset_dir:
        data = Data.of_datalist(dataset_dir)
    else:
        count = NUM_HELD_OUT + max(most, 8)
        folder = output / f"phantoms_{size.phantom_size}_{count}"
        source = write_phantoms(folder, count, size.phantom_size, size.crops.spacing_mm, seed=PHANTOM_SEED)
        split = load_datalist(source)
        items = sorted([*split.training, *split.validation], key=lambda item: item["image"])
        data = Data(items[NUM_HELD_OUT:], items[:NUM_HELD_OUT])
    data.check(most)
    return data


def _file_of(name: str, files: dict[str, str]) -> str:
    """The pre-trained encoder of a method."""
    if name not in METHODS:
        sys.exit(f"--methods must be some of {', '.join(METHODS)}, got {name}.")
    option = METHODS[name].encoder
    if option and not files[option]:
        sys.exit(f"{METHODS[name].label} needs --{option} FILE; or leave it out of --methods.")
    return files[option] if option else ""


def _rates(name: str, head_lr: float | None, encoder_lr: float | None) -> tuple[float, float]:
    method = METHODS[name]
    return method.head_lr if head_lr is None else head_lr, method.encoder_lr if encoder_lr is None else encoder_lr


def _listed(values: Sequence[str | int] | str | int) -> list[str | int]:
    return [values] if isinstance(values, (str, int)) else list(values)


# --- results ---


def _results(path: Path, jobs: Sequence[Job]) -> dict[tuple[str, int], list[dict[str, float]]]:
    """Scores by method and number of labels, one entry per seed, in the seeds' order."""
    rows = read_rows(path, Job._fields)
    results: dict[tuple[str, int], list[dict[str, float]]] = {}
    for job in jobs:
        row = {name: float(rows[job.key()][name]) for name in ("dice", "hd95_mm")}
        results.setdefault((job.method, job.labelled), []).append(row)
    return results


def result_table(results: dict[tuple[str, int], list[dict[str, float]]]) -> str:
    """Rows: numbers of labels and methods; columns: scores, and how they compare with from scratch, seed by seed."""
    rows = []
    for number in dict.fromkeys(number for _, number in results):
        for name in dict.fromkeys(name for name, _ in results):
            own, scratch = results[name, number], results.get(("scratch", number))
            cells = [_spread([run["dice"] for run in own], ".3f"), _spread([run["hd95_mm"] for run in own], ".2f")]
            for score_name, form in (("dice", "+.3f"), ("hd95_mm", "+.2f")):
                pairs = zip(own, scratch, strict=True) if scratch and name != "scratch" else []
                differences = [one[score_name] - other[score_name] for one, other in pairs]
                cells.append(_spread(differences, form) if differences else "")
            rows.append([str(number), METHODS[name].label, *cells])
    compared = ["Dice - from scratch", "HD95 - from scratch"]
    return table(["labelled joints", "method", "Dice", "HD95, mm", *compared], rows)


def _spread(values: Sequence[float], form: str) -> str:
    """Mean; smallest and largest in brackets."""
    return "{:{f}} ({:{f}} to {:{f}})".format(statistics.fmean(values), min(values), max(values), f=form)


def draw(results: dict[tuple[str, int], list[dict[str, float]]]) -> Figure:
    """Scores over the number of labelled joints; bars from the worst seed to the best."""
    figure = Figure(figsize=(9.6, 3.8), dpi=120, layout="constrained")
    for ax, (name, title) in zip(figure.subplots(1, 2), {"dice": "Dice", "hd95_mm": "HD95, mm"}.items(), strict=True):
        for place, method in enumerate(dict.fromkeys(method for method, _ in results)):
            numbers = sorted(number for one, number in results if one == method)
            found = [[entry[name] for entry in results[method, number]] for number in numbers]
            means = np.array([statistics.fmean(values) for values in found])
            bars = np.array([[mean - min(v), max(v) - mean] for mean, v in zip(means, found, strict=True)]).T
            # side by side, so that bars do not hide each other
            x = np.array(numbers) * 1.03 ** (place - 1.5)
            style = {"color": COLORS[method], "marker": "o", "ms": 4, "lw": 1.6, "capsize": 3}
            ax.errorbar(x, means, np.maximum(bars, 0), label=METHODS[method].label, **style)
        ax.set_xscale("log", base=2)
        ticks = sorted({number for _, number in results})
        ax.set_xticks(ticks, [str(number) for number in ticks])
        ax.set(xlabel="labelled joints", ylabel=title, xlim=(ticks[0] / 1.2, ticks[-1] * 1.2))
        ax.grid(alpha=0.25)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _setting(jobs: Sequence[Job], data: Data) -> str:
    """What the table is of, in words."""
    rates = "; ".join(
        f"{METHODS[name].label}: {head:g} and {rest:g}"
        for name, head, rest in dict.fromkeys((job.method, job.head_lr, job.encoder_lr) for job in jobs)
    )
    first, crops = jobs[0], SIZES[jobs[0].size].crops
    return (
        f"{len({job.seed for job in jobs})} seeds, {first.steps} steps of {crops.batch_size} crops of "
        f"{crops.img_size}^3 at {crops.spacing_mm:g} mm, {len(data.held_out)} held-out joints. "
        "Mean over the seeds; brackets hold the smallest and the largest. Learning rates of decoder and encoder: "
        f"{rates}."
    )


def _tell(text: str) -> None:
    """What is going on, while there is nothing to show."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    fire.Fire(run)
