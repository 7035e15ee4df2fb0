"""How time and memory of pre-training grow: with the volume's size, batch, number of losses, and processes.

    python benchmarks/scaling.py [--only edges|batch|tasks|ranks] [--edges 96,128,160,192,224] [--rounds 3]
        [--width 768] [--fresh] [--out docs/performance]

What is measured, everything in float32 on one thread, and in a process of its own:

- *edges*: a training step (forward, `SubpatchStructureLoss`, backward, `GradientConductor` with one loss,
  `LionLARS`) of one network on larger and larger cubes, patch 16, 12 blocks. Window 2 divides all grids of 6, 8, 10, 12
  and 14 tokens: its exponent is the network's. Window 7 divides the grid of 14 alone and is padded on the others, which
  costs what the page says. For contrast the same step with MONAI's `MaskedAutoEncoderViT`, whose attention is global.
- *batch*: samples of a micro-batch, for the demo's network and for the paper's at 96^3.
- *tasks*: 1 to 3 losses, every loss on every micro-batch ("classic") or dealt out ("stochastic").
- *ranks*: the demo of the bundle, as a user runs it: one process; two that train one network through
  multi_gpu_train.json; and two that do not know of each other, which shows what the machine itself loses. Seconds are
  those of the clock here, so the machine should have nothing else to do. Elsewhere they are the process' own.

One row for each point and round is appended to ``scaling.csv`` as soon as it is there, and not measured again:
stopped, the command goes on where it was. ``--fresh`` begins anew, as it must when the code has changed.
``scaling.png`` and ``cost-model.md`` are made of the rows. A round takes about six minutes.
"""

from __future__ import annotations

import gc
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import torch
from growth.page import write_page
from growth.points import (
    APART,
    EDGES,
    PARTS,
    ROOT,
    TOGETHER,
    Cost,
    Point,
    Row,
    append_row,
    describe,
    loss_weights,
    losses_of,
    make_loss,
    make_network,
    points,
    read_rows,
)
from processes import in_own_process

from bertswin_ext.optimizers import GradientConductor, LionLARS

CONFIGS = ROOT / "bundles" / "pretrain" / "configs"
SMALLEST = Point("batch", "BertsWin", 32, 2, 48, losses=3)
RANK_STEPS, RANK_INTERVAL = 120, 20


def run(
    only: str | Sequence[str] = PARTS,
    edges: int | Sequence[int] = EDGES,
    rounds: int = 3,
    width: int = 768,
    fresh: bool = False,
    out: str = "docs/performance",
) -> None:
    """Measure what is missing, and write table, picture and page.

    Args:
        only: some of edges, batch, tasks and ranks.
        edges: voxels per axis.
        rounds: turns of every point.
        width: of the networks' tokens.
        fresh: forget what was measured before, of these parts.
        out: folder of scaling.csv, scaling.png and cost-model.md.
    """
    parts = [only] if isinstance(only, str) else list(only)
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        sys.exit(f"--only must be some of {', '.join(PARTS)}, got {', '.join(unknown)}.")
    chosen = points(parts, [edges] if isinstance(edges, int) else list(edges), width)
    path = Path(out) / "scaling.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        keep = [row for row in read_rows(path) if row.point.part not in parts]
        path.unlink(missing_ok=True)
        for row in keep:
            append_row(path, row)
    for number in range(rounds):
        done = {(row.point, row.number) for row in read_rows(path)}
        for point in (point for point in chosen if (point, number) not in done):
            _tell(f"round {number + 1} of {rounds}: {describe(point)}")
            cost = measure_ranks(point) if point.part == "ranks" else in_own_process(measure, point)
            if cost is None:
                _tell("it did not get the memory")
            else:
                append_row(path, Row(point, number, cost))
    write_page(read_rows(path), in_own_process(ceiling), Path(out))


# --- one process ---


def measure(point: Point) -> Cost:
    """One step after a first one, which makes room and fills the optimizer's state."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # libraries take room of their own when they are first used
    training_step(SMALLEST)()
    before = _resident()
    step = training_step(point)
    step()
    seconds, update = zip(*(step() for _ in range(1 if point.network != "demo" else 5)), strict=True)
    return Cost(statistics.median(seconds), statistics.median(update), _peak() - before)


def training_step(point: Point) -> Callable[[], tuple[float, float]]:
    """A function that makes a step and tells its seconds, and those of conductor and optimizer among them."""
    network = make_network(point)
    criterion = make_loss(network)
    conductor = GradientConductor(
        network,
        loss_weights(point.losses),
        accumulation_steps=point.micro_batches,
        accumulation=point.accumulation,
    )
    optimizer = LionLARS(network.parameters(), lr=1e-6)
    image = torch.randn(point.batch, 1, *3 * [point.edge])

    def step() -> tuple[float, float]:
        start = time.process_time()
        for _ in range(point.micro_batches):
            terms = criterion.terms(network(image), image)
            conductor.accumulate(losses_of(terms, point.losses))
        updated = time.process_time()
        if conductor.conduct():
            optimizer.step()
        return time.process_time() - start, time.process_time() - updated

    return step


def ceiling() -> float:
    """FLOPs a second of products of large float32 matrices on one thread, the best of ten."""
    torch.set_num_threads(1)
    size, best = 1536, 0.0
    left, right = torch.randn(size, size), torch.randn(size, size)
    for _ in range(10):
        start = time.process_time()
        left @ right
        best = max(best, 2 * size**3 / (time.process_time() - start))
    return best


def _resident() -> float:
    """Bytes that the process has resident now; the worst moment is forgotten."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> float:
    """Bytes that it had resident at the worst moment since."""
    return _status("VmHWM")


def _status(name: str) -> float:
    """A line of what Linux tells about the process."""
    (line,) = [line for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if name in line]
    return 1024.0 * int(line.split()[1])


# --- several processes ---


def measure_ranks(point: Point) -> Cost:
    """Seconds of an iteration of the bundle's demo, in the steady state; of the slower one where two are apart."""
    with tempfile.TemporaryDirectory() as folder:
        count = point.processes if point.accumulation == APART else 1
        outputs = [Path(folder) / str(number) for number in range(count)]
        started = [subprocess.Popen(_command(point, output), **_quiet()) for output in outputs]
        failed = [process for process in started if process.wait() != 0]
        if failed:
            sys.exit(f"{' '.join(map(str, failed[0].args))} failed; run it to see why.")
        return Cost(max(seconds_of_log(output / "run.log") for output in outputs), 0.0, 0.0)


def _command(point: Point, output: Path) -> list[str]:
    """The demo, for one or several processes."""
    together = point.accumulation == TOGETHER and point.processes > 1
    names = ["train", "demo", *(["multi_gpu_train"] if together else [])]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={point.processes}"] if together else []
    options = {
        "config_file": str([str(CONFIGS / f"{name}.json") for name in names]),
        "output_dir": str(output),
        "epochs": 1,
        "steps_per_epoch": RANK_STEPS,
        "log_interval": RANK_INTERVAL,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, *launch, "-m", "monai.bundle", "run", *flags]


def _quiet() -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def seconds_of_log(path: Path) -> float:
    """Median seconds of an iteration between the lines of a log, the first line being the start."""
    times = [
        datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r" epoch 1/1 iteration \d+/", line)
    ]
    if len(times) < 2:
        sys.exit(f"{path} must have two lines of iterations or more, found {len(times)}.")
    spans = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    return statistics.median(spans) / RANK_INTERVAL


def _tell(text: str) -> None:
    """What is going on, while there is nothing to show."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    fire.Fire(run)
