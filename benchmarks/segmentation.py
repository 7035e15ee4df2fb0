"""What fine-tuning and inference cost: `BertsWinSegmenter` of the paper's size, and MONAI's `SwinUNETR`.

    python benchmarks/segmentation.py [--crops 96] [--rounds 3] [--device cpu|cuda] [--dtype float32|bfloat16]
        [--memory_gb 12] [--out table.md]

How to read the tables:

- *A training step* is forward, Dice and cross entropy, backward and AdamW with one crop. *Inference* is a sliding
  window of the crop's size, overlap 0.5, over a volume of 1.5 crops along the first axis: two windows, put together.
- Every turn of a network is a process of its own, which warms up (optimizer state included) and then measures once; the
  networks take turns, in an order that rotates. "x SwinUNETR" compares with SwinUNETR of the same round. Medians;
  brackets hold the smallest and the largest.
- *Peak memory* on a CPU is what the process has resident at the worst moment (`ru_maxrss`), less what it had before
  the network was built; on a GPU it is `torch.cuda.max_memory_allocated`. Parameters and optimizer are in it.
- "did not fit" is a network that was refused memory beyond ``memory_gb`` (the GPU's own on a GPU). What it would have
  taken is extrapolated from the two largest crops that fitted, along a straight line in the number of voxels, and
  marked "about".
- *Memory over the volume* is inference with one window size on larger and larger volumes, no overlap.

One thread and its own CPU time by default: that can be repeated on a machine that others use too.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import monai
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import SwinUNETR
from processes import in_own_process
from tables import spread, table

from bertswin_ext.inferers import sliding_window
from bertswin_ext.networks.segmenter import BertsWinSegmenter

CLASSES, PATCH, WARM_UP_CROP = 3, 16, 64
YARDSTICK = "SwinUNETR"
NETWORKS: dict[str, Callable[[int], torch.nn.Module]] = {
    YARDSTICK: lambda crop: SwinUNETR(1, CLASSES, feature_size=48, use_checkpoint=False, spatial_dims=3),
    "BertsWinSegmenter": lambda crop: BertsWinSegmenter(crop, window_size=min(7, crop // PATCH), decoder="unetr"),
}
TASKS = ("training step", "inference")
GIGABYTE, MEGABYTE = 1e9, 1e6


class Setting(NamedTuple):
    """On what, and how."""

    device: str
    dtype: str
    threads: int
    memory_gb: float

    def precision(self) -> AbstractContextManager[object]:
        """Autocast, where another type than float32 is asked for."""
        dtype = getattr(torch, self.dtype)
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device, dtype)


class Cost(NamedTuple):
    """Seconds, and bytes at the worst moment."""

    seconds: float
    memory: float


Costs = dict[tuple[str, int, str], list[Cost]]
"""By task, crop and network, one entry per round; none if it did not fit."""


def run(
    crops: Sequence[int] | int = 96,
    rounds: int = 3,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int = 1,
    memory_gb: float = 12.0,
    volumes: Sequence[int] = (96, 192, 288, 384),
    out: str = "",
) -> None:
    """Measure and print the tables.

    Args:
        crops: voxels per axis, multiples of 32.
        rounds: turns of every network.
        device: "cpu" or "cuda".
        dtype: "float32", or "bfloat16" for autocast.
        threads: of torch, on the CPU.
        memory_gb: what a process may have on the CPU.
        volumes: voxels per axis of the volumes for the memory of inference; () for none.
        out: also write the tables to this file.
    """
    crops = [crops] if isinstance(crops, int) else list(crops)
    setting = Setting(device, dtype, threads, memory_gb)
    costs = take_turns(crops, rounds, setting)
    parts = [_heading(setting)]
    for task in TASKS:
        parts += [f"### {task.capitalize()}", cost_table(costs, task, crops)]
    if len(volumes):
        parts += [f"### Memory over the volume, window {volumes[0]}^3", volume_table(volumes, setting)]
    text = "\n\n".join(parts)
    print(text)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")


# --- turns ---


def take_turns(crops: Sequence[int], rounds: int, setting: Setting) -> Costs:
    """What everything costs, in every round."""
    costs: Costs = {(task, crop, name): [] for task in TASKS for crop in crops for name in NETWORKS}
    names = list(NETWORKS)
    refused = set()
    for number in range(rounds):
        for task, crop in ((task, crop) for crop in crops for task in TASKS):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                _tell(f"round {number + 1} of {rounds}: {task}, {crop}^3, {name}")
                key = (task, crop, name)
                cost = None if key in refused else in_own_process(measure, task, crop, name, setting)
                if cost is None:
                    refused.add(key)
                else:
                    costs[key].append(cost)
    return costs


def measure(task: str, crop: int, name: str, setting: Setting) -> Cost:
    """One turn of a network."""
    prepare_process(setting)
    before = _peak(setting)
    network = NETWORKS[name](crop).to(setting.device)
    call = training_step(network, setting) if task == TASKS[0] else inference(network, setting)
    call(crop if setting.device == "cuda" else min(crop, WARM_UP_CROP))
    seconds = _seconds(lambda: call(crop), setting)
    return Cost(seconds, _peak(setting) - before)


def prepare_process(setting: Setting) -> None:
    """Threads, seed, and the limit on memory, which counts what the process has of its own."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    if setting.device == "cpu":
        limit = int(setting.memory_gb * GIGABYTE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def training_step(network: torch.nn.Module, setting: Setting) -> Callable[[int], None]:
    """A step of the bundle: Dice without background, weighted cross entropy, AdamW."""
    weight = torch.tensor([0.1, 1.0, 1.0], device=setting.device)
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, weight=weight)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=0.05)

    def step(crop: int) -> None:
        image = torch.randn(1, 1, crop, crop, crop, device=setting.device)
        label = (image > 1).float() + (image > 2).float()
        with setting.precision():
            loss = criterion(network(image), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(network: torch.nn.Module, setting: Setting) -> Callable[[int], None]:
    """A sliding window over a volume of two windows."""
    network.eval()

    def infer(crop: int) -> None:
        image = torch.randn(1, 1, 3 * crop // 2, crop, crop, device=setting.device)
        with torch.inference_mode(), setting.precision():
            sliding_window(crop, PATCH, overlap=0.5)(image, network)

    return infer


def measure_volume(edge: int, window: int, setting: Setting) -> Cost:
    """One volume, window by window."""
    prepare_process(setting)
    before = _peak(setting)
    network = NETWORKS["BertsWinSegmenter"](window).to(setting.device).eval()
    image = torch.randn(1, 1, edge, edge, edge, device=setting.device)

    def infer() -> None:
        with torch.inference_mode(), setting.precision():
            sliding_window(window, PATCH, overlap=0.0)(image, network)

    return Cost(_seconds(infer, setting), _peak(setting) - before)


def _seconds(call: Callable[[], None], setting: Setting) -> float:
    """Seconds of a call; the time of one thread does not contain what other programs took."""
    clock = time.process_time if setting.device == "cpu" and setting.threads == 1 else time.perf_counter
    _wait(setting)
    start = clock()
    call()
    _wait(setting)
    return clock() - start


def _wait(setting: Setting) -> None:
    if setting.device == "cuda":
        torch.cuda.synchronize()


def _peak(setting: Setting) -> float:
    """Bytes at the worst moment so far."""
    if setting.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


# --- tables ---


def cost_table(costs: Costs, task: str, crops: Sequence[int]) -> str:
    """Rows: crops and networks; columns: time and memory, and both relative to the yardstick."""
    rows = []
    for crop in crops:
        for name in NETWORKS:
            own, other = costs[task, crop, name], costs[task, crop, YARDSTICK]
            if own:
                cells = [
                    spread([cost.seconds for cost in own], "{:.2f}"),
                    _relative([cost.seconds for cost in own], [cost.seconds for cost in other]),
                    f"{_median_memory(own) / MEGABYTE:.0f}",
                    _relative([_median_memory(own)], [_median_memory(other)] if other else []),
                ]
            else:
                cells = _extrapolated(costs, task, crop, name, crops)
            rows.append([f"{crop}^3", name, *cells])
    titles = ["crop", "network", "seconds", f"x {YARDSTICK}", "peak memory, MB", f"x {YARDSTICK}"]
    return table(titles, rows)


def _relative(own: Sequence[float], other: Sequence[float]) -> str:
    if len(own) != len(other):
        return ""
    quotients = [one / two for one, two in zip(own, other, strict=True)]
    return spread(quotients, "{:.2f}") if len(quotients) > 1 else f"{quotients[0]:.2f}"


def _median_memory(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.memory for cost in costs)


def _extrapolated(costs: Costs, task: str, crop: int, name: str, crops: Sequence[int]) -> list[str]:
    """Cells of a network that did not fit."""
    points = [
        (size**3, statistics.median(cost.seconds for cost in found), _median_memory(found))
        for size in sorted(crops)
        if (found := costs[task, size, name]) and size < crop
    ][-2:]
    if len(points) < 2:
        return ["did not fit", "", "did not fit", ""]
    voxels, seconds, memory = zip(*points, strict=True)
    time_text = f"did not fit; about {_along_line(voxels, seconds, crop**3):.0f}"
    return [time_text, "", f"did not fit; about {_along_line(voxels, memory, crop**3) / MEGABYTE:.0f}", ""]


def _along_line(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """The straight line through two points, elsewhere."""
    return y[0] + (y[1] - y[0]) * (at - x[0]) / (x[1] - x[0])


def volume_table(edges: Sequence[int], setting: Setting) -> str:
    """Rows: volumes; columns: windows and memory."""
    rows, first = [], None
    for edge in edges:
        _tell(f"inference on {edge}^3")
        cost = in_own_process(measure_volume, edge, edges[0], setting)
        if cost is None:
            rows.append([f"{edge}^3", "", "did not fit", "", ""])
            continue
        first = first or (edge, cost.memory)
        grown = edge**3 - first[0] ** 3
        per_voxel = f"{(cost.memory - first[1]) / grown:.0f}" if grown else ""
        windows = math.ceil(edge / edges[0]) ** 3
        numbers = [f"{windows}", f"{cost.memory / MEGABYTE:.0f}", per_voxel, f"{cost.seconds / windows:.2f}"]
        rows.append([f"{edge}^3", *numbers])
    note = (
        "Volume, output and the map of weights are (2 + 3) float32, 20 bytes for every voxel. What is more than those "
        "does not grow."
    )
    titles = ["volume", "windows", "peak memory, MB", "bytes for every further voxel", "seconds for a window"]
    return f"{table(titles, rows)}\n\n{note}"


def _heading(setting: Setting) -> str:
    where = torch.cuda.get_device_name() if setting.device == "cuda" else f"CPU, {setting.threads} of its cores"
    sizes = ", ".join(
        f"{name} {sum(p.numel() for p in make(96).parameters()) / 1e6:.1f} M" for name, make in NETWORKS.items()
    )
    return (
        f"## What segmentation costs\n\ntorch {torch.__version__}, MONAI {monai.__version__}, {where}, "
        f"{setting.dtype}. Parameters: {sizes}."
    )


def _tell(text: str) -> None:
    """What is going on, while there is nothing to show."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    fire.Fire(run)
