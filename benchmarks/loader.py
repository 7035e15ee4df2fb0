"""What a training crop costs: MONAI's CacheDataset and RandAffined against stored volumes, one box, one resampling.

    python benchmarks/loader.py [--rounds 5] [--num_files 4] [--device cpu|cuda] [--dir /tmp] [--out table.md]

How to read the tables:

- *Samples/s* is wall time of the whole loader, batches of two, with torch at one thread in every process: in the main
  process (workers 0), or in two of its own. The pipelines take turns of a few samples; workers stay from turn to turn,
  and the first turn does not count. Ratios are taken turn by turn with that of MONAI in the same round. Medians;
  brackets hold the smallest and the largest. *CPU time* is that of the main process and the workers.
- *MONAI, plain*: `CacheDataset` as it is by default, and one `RandAffined` with the same rotations, scales and shifts.
  *MONAI, at its best*: no copy of the volume for every sample, the shift by `RandSpatialCropd`, the grid cached.
- *Ours* is everything, in the same processes: read the box, resample it, tell which tokens are in the field of view,
  and standardize it; noise and warp make a second volume, the network's input. *Loader only* is what workers do where
  a GPU does the rest. *From disk*: the files are dropped from the page cache before every turn; all other turns find
  them there.
- *Memory* is what the processes have of their own or share with each other (proportional set sizes, anonymous and
  shared memory, added up over the main process and the workers, sampled five times a second), at the worst moment
  from reading the datalist to the last sample, each row in a process of its own. After the first batch nobody takes
  another for some seconds, so that workers run ahead as far as they may. The page cache is not in it: the kernel gives
  it up when somebody needs memory.

With ``--device cuda`` our workers read boxes and the GPU does the rest, in the main process; MONAI's transform gets
``device="cuda"``, which a worker cannot have, so it has no workers.

Needs Linux (/proc), 1.1 GB of disk, and 6 GB of memory for MONAI's cache.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import monai
import numpy as np
import torch
from crop_loaders import (
    BEST,
    COLD,
    LOADER_ONLY,
    OURS,
    PIPELINES,
    PLAIN,
    Items,
    Pipeline,
    Sizes,
    dataset_of,
    items_of,
    linked,
    monai_loading,
    pipeline,
    write_volumes,
)
from monai.transforms import Affined, Compose
from tables import spread, table
from torch.utils.data import Dataset

from bertswin_ext.stored_volume import open_stored_volume
from bertswin_ext.transforms import ResampleCrop, StandardizeHU, plan_crop

QUICK = Sizes(volume=100, crop=64)
MEGABYTE = 1e6
PAUSE_S = 8.0
# what both make with the same numbers
ANGLES_DEG, ENLARGED, SHIFT_VOX = (9.0, -6.0, 4.0), 1.05, (3.3, -5.6, 2.1)

Times = dict[str, list[dict[str, float]]]
"""By pipeline, seconds of a sample, one entry per round."""


def run(
    rounds: int = 5, num_files: int = 4, device: str = "cpu", quick: bool = False, dir: str = "", out: str = ""
) -> None:
    """Measure and print the tables.

    Args:
        rounds: turns of every pipeline.
        num_files: volumes on disk, and in MONAI's cache while time is taken.
        device: "cpu" or "cuda".
        quick: small volumes, to see that it runs.
        dir: where the volumes are written, and deleted in the end.
        out: also write the tables to this file.
    """
    torch.set_num_threads(1)
    sizes = QUICK if quick else Sizes()
    with tempfile.TemporaryDirectory(dir=dir or None) as folder:
        files = write_volumes(Path(folder), sizes, num_files)
        parts = [_setting(sizes, num_files, device), "### The same crops", agreement_text(*files[0], sizes)]
        datasets = make_datasets(files, sizes, device)
        for workers in (0, 2):
            pipelines = make_pipelines(datasets, sizes, workers, device)
            parts += [f"### Time, {_named(workers)}", crop_table(pipelines) if not workers else ""]
            parts.append(time_table(take_turns(pipelines, rounds)))
        del pipelines, datasets  # MONAI's cache
        parts += ["### Memory, two workers", memory_table(memory_rows(files, sizes))]
    text = "\n\n".join(part for part in parts if part)
    print(text)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")


# --- the same crops ---


def agreement(stored: Path, usual: Path, sizes: Sizes) -> tuple[torch.Tensor, torch.Tensor]:
    """A crop with the same rotation, scale and shift by MONAI's `Affine` and by ours."""
    volume = open_stored_volume(stored)
    middle = (np.array(volume.shape) - 1) / 2
    plan = plan_crop(
        volume.shape, volume.affine, [sizes.crop] * 3, middle + SHIFT_VOX, rotation_deg=ANGLES_DEG, scale=ENLARGED
    )
    box = torch.from_numpy(volume.read(*plan.box))[None]
    ours = StandardizeHU()(ResampleCrop(track_meta=False)(box, plan))
    # MONAI counts from the middle of the crop to the middle of the volume
    centered = _shift(-middle) @ plan.matrix @ _shift(np.array([(sizes.crop - 1) / 2] * 3))
    affine = Affined("image", affine=centered, spatial_size=plan.size, mode="bilinear", padding_mode="border")
    theirs = Compose([*monai_loading(), affine])({"image": str(usual)})["image"]
    return ours, theirs.as_tensor()


def _shift(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = by
    return matrix


def agreement_text(stored: Path, usual: Path, sizes: Sizes) -> str:
    """How far the two crops are apart."""
    ours, theirs = agreement(stored, usual, sizes)
    difference = (ours - theirs).abs()
    return (
        f"Random voxels, rotated by {ANGLES_DEG} degrees, enlarged by {ENLARGED}: ours and MONAI's crop differ by "
        f"{difference.mean():.1e} standard deviations of HU on average, {difference.max():.1e} at most."
    )


def crop_table(pipelines: dict[str, Pipeline]) -> str:
    """The first batch of every pipeline that makes crops."""
    rows = []
    for name in (PLAIN, BEST, OURS):
        image = next(iter(pipelines[name].batches()))["image"].float()
        shape = " x ".join(map(str, image.shape))
        values = (image.min(), image.max(), image.mean(), image.std())
        rows.append([name, shape, str(image.dtype).removeprefix("torch."), *(f"{value:.2f}" for value in values)])
    return table(["a batch", "shape", "type", "smallest", "largest", "mean", "deviation"], rows)


# --- time ---


def make_datasets(files: Sequence[tuple[Path, Path]], sizes: Sizes, device: str = "cpu") -> dict[str, Dataset]:
    """What every pipeline draws from: the same volumes, in its own way."""
    stored, usual = (items_of(paths, sizes) for paths in zip(*files, strict=True))
    return {name: dataset_of(name, usual if _is_monai(name) else stored, sizes, device) for name in PIPELINES}


def make_pipelines(
    datasets: dict[str, Dataset], sizes: Sizes, workers: int, device: str = "cpu"
) -> dict[str, Pipeline]:
    """All pipelines; those that take little time have more samples in a turn."""
    samples = dict.fromkeys(PIPELINES, 4) | {LOADER_ONLY: 40, COLD: len(datasets[COLD])}
    return {
        name: pipeline(name, dataset, sizes, samples[name], 2, workers, device)
        for name, dataset in datasets.items()
        if not (_is_monai(name) and workers and device != "cpu")
    }


def take_turns(pipelines: dict[str, Pipeline], rounds: int) -> Times:
    """Seconds of every pipeline in every round, in an order that rotates."""
    times: Times = {name: [] for name in pipelines}
    names = list(pipelines)
    for number in range(rounds + 1):
        _tell(f"round {number} of {rounds}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken = turn(pipelines[name])
            if number:  # the first round warms up
                times[name].append(taken)
    return times


def turn(one: Pipeline) -> dict[str, float]:
    """Wall and CPU seconds per sample."""
    one.prepare()
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in one.batches():
        pass
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return {
        "wall": (time.perf_counter() - start) / one.num_samples,
        "cpu": (_cpu_seconds() - cpu) / one.num_samples,
    }


def time_table(times: Times) -> str:
    """Rows: pipelines; columns: samples per second, and how much faster than MONAI."""
    yardsticks = [name for name in (PLAIN, BEST) if name in times]
    titles = ["", "samples/s", *(f"x {name}" for name in yardsticks), "CPU time, ms", *(f"x {n}" for n in yardsticks)]
    rows = []
    for name, rounds in times.items():
        rows.append(
            [
                name,
                spread([1 / entry["wall"] for entry in rounds], "{:.2f}"),
                *(_faster(times, name, yardstick, "wall") for yardstick in yardsticks),
                spread([1000 * entry["cpu"] for entry in rounds], "{:.0f}"),
                *(_faster(times, name, yardstick, "cpu") for yardstick in yardsticks),
            ]
        )
    return table(titles, rows)


def _faster(times: Times, name: str, yardstick: str, clock: str) -> str:
    pairs = zip(times[yardstick], times[name], strict=True)
    return spread([other[clock] / max(own[clock], 1e-9) for other, own in pairs], "{:.1f}")


def _cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    ticks = 0
    for pid in _processes():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _processes() -> list[int]:
    """This process and its children."""
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return [os.getpid(), *(int(pid) for found in children for pid in found)]


# --- memory ---


class Memory(NamedTuple):
    """MB of this process and its children, at the beginning and at the worst moment."""

    begin: float
    peak: float


def watched(call: Callable[[], None]) -> Memory:
    """How much memory a call takes."""
    found, over = [_own_memory()], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            found.append(_own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        call()
    finally:
        over.set()
        thread.join()
    return Memory(found[0], max(found))


def _own_memory() -> float:
    """MB that the processes have of their own, or share with each other, but not with the page cache."""
    total = 0
    for pid in _processes():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total * 1024 / MEGABYTE


def pipeline_memory(
    name: str, items: Items, sizes: Sizes, num_samples: int, batch_size: int, workers: int, pause: float
) -> Memory:
    """Build a pipeline, draw samples, and see how much memory that takes."""
    torch.set_num_threads(1)

    def draw() -> None:
        one = pipeline(name, dataset_of(name, items, sizes), sizes, num_samples, batch_size, workers)
        for number, _ in enumerate(one.batches()):
            time.sleep(0.0 if number else pause)  # workers run ahead of a slow network

    return watched(draw)


def memory_rows(files: Sequence[tuple[Path, Path]], sizes: Sizes) -> list[tuple[str, int, int, int, Memory]]:
    """Pipeline, volumes, batch, samples and memory, each in a fresh process."""
    cases = [
        *((PLAIN, count, 2, 8) for count in (4, 8)),
        *((OURS, count, 2, 16) for count in (50, 500)),
        (OURS, 50, 4, 16),
        *((LOADER_ONLY, count, 2, 500) for count in (50, 500)),
    ]
    rows = []
    for name, count, batch_size, num_samples in cases:
        _tell(f"memory of {name}, {count} volumes")
        paths = linked([file[_is_monai(name)] for file in files], count)
        given = (name, items_of(paths, sizes), sizes, num_samples, batch_size, 2, 0.0 if sizes == QUICK else PAUSE_S)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append((name, count, batch_size, num_samples, pool.submit(pipeline_memory, *given).result()))
    return rows


def memory_table(rows: Sequence[tuple[str, int, int, int, Memory]]) -> str:
    """Rows: data sets; columns: memory at the worst moment. Below it what another volume adds."""
    cells = [
        [name, *map(str, numbers), f"{memory.peak:.0f}", f"{memory.peak - memory.begin:.0f}"]
        for name, *numbers, memory in rows
    ]
    found = {(name, count): memory.peak for name, count, batch, _, memory in rows if batch == 2}
    return "\n\n".join(
        [
            table(["", "volumes", "batch", "samples", "peak, MB", "of it since the imports, MB"], cells),
            "\n".join(f"- {name}: {_growth(found, name)}" for name in dict.fromkeys(name for name, _ in found)),
        ]
    )


def _growth(peaks: dict[tuple[str, int], float], name: str) -> str:
    (few, less), (many, more) = sorted((count, peak) for (which, count), peak in peaks.items() if which == name)
    growth = round((more - less) / (many - few), 1) + 0.0  # no -0.0
    return f"{growth:.1f} MB for every further volume, from {few} to {many}"


# --- words ---


def _is_monai(name: str) -> bool:
    return name in (PLAIN, BEST)


def _tell(text: str) -> None:
    """What is going on, while there is nothing to show."""
    print(text, file=sys.stderr, flush=True)


def _named(workers: int) -> str:
    return f"{workers} workers" if workers else "in the main process"


def _setting(sizes: Sizes, num_files: int, device: str) -> str:
    where = torch.cuda.get_device_name() if device != "cpu" else f"CPU, {os.cpu_count()} cores"
    return (
        f"## What a training crop costs\n\ntorch {torch.__version__}, MONAI {monai.__version__}, {where}. Crops of "
        f"{sizes.crop}^3 out of volumes of {sizes.volume}^3, int16. There are {num_files} files; larger data sets name "
        "each of them often, so that the page cache holds more of them than it would hold of a real one."
    )


if __name__ == "__main__":
    fire.Fire(run)
