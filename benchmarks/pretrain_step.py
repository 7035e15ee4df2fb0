"""What a pre-training step costs: BertsWin, BertsWin with no thought of speed, and MONAI's two methods.

    python benchmarks/pretrain_step.py [--sizes demo,96] [--rounds 5] [--dtypes float32,bfloat16] [--compiled]
        [--device cpu|cuda] [--threads 1] [--batch_size N] [--memory_gb 12] [--tf32] [--out docs/performance]

Writes ``step.csv``, a row for each turn, and of it ``step.md``, which says how to read it, and ``step.png``. Rows of
other machines and sizes stay; those of the same ones are replaced. ``--rounds 0`` measures nothing and only writes page
and chart anew.

- The methods are in `step/arms.py`, of which the straightforward BertsWin in `step/straightforward.py` and
  `tensor_loops.py`, and the heads and losses of Swin UNETR's pre-training in `step/swin_ssl.py`.
- First, the two BertsWin must agree, in float64. Then a process for each method and type finds out what is not time
  (`step/facts.py`): memory, FLOPs, kernels and, on a GPU, the batch that fills four fifths of it.
- Then they take turns, each turn a process of its own that makes two steps and measures the next ones, of which the
  middle one counts; the order rotates.
- ``--compiled`` takes minutes to build. On a GPU, see the end of ``docs/performance/step.md``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import fire
from processes import in_own_process
from step.arms import SIZES, arm_names, eager_name
from step.facts import GIGA, deviation, look_at
from step.page import write_page
from step.rows import Row, read_rows, replace_rows
from step.setting import Setting, machine
from step.turns import ceiling, measure

# importing takes longer than a step of the demo
in_fork = partial(in_own_process, preload=["pretrain_step"])

DTYPES = ("float32", "bfloat16")
TOLERANCE = 1e-4

Key = tuple[str, str]
"""A method and a type."""


def run(
    sizes: Any = "demo,96",
    rounds: int = 5,
    dtypes: Any = "float32,bfloat16",
    compiled: bool = False,
    device: str = "cpu",
    threads: int = 1,
    batch_size: int = 0,
    memory_gb: float = 12.0,
    tf32: bool = False,
    out: str = "docs/performance",
) -> None:
    """Measure, and write table, page and chart.

    Args:
        sizes: some of demo, 96 and 224.
        rounds: turns of every method; 0 only writes the page and the chart.
        dtypes: some of float32 and bfloat16 (autocast).
        compiled: also measure `torch.compile`.
        device: "cpu" or "cuda".
        threads: of torch, on the CPU.
        batch_size: volumes of a step; by default the size's own, on a GPU as many as fit.
        memory_gb: what a process may have on the CPU.
        tf32: let a GPU multiply float32 in TF32.
        out: folder of step.csv, step.md and step.png.
    """
    chosen, types = some_of(sizes, SIZES, "sizes"), some_of(dtypes, DTYPES, "dtypes")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(device, DTYPES[0], threads, memory_gb, tf32)
    for size in chosen if rounds else ():
        keys = [(name, dtype) for dtype in types for name in arm_names(SIZES[size], compiled)]
        take_turns(size, keys, rounds, batch_size, setting, folder / "step.csv")
    write_page(read_rows(folder / "step.csv"), folder)


def some_of(given: Any, known: Collection[str], option: str) -> list[str]:
    """Names out of those there are; fire makes numbers and tuples of what looks like them."""
    listed = given if isinstance(given, list | tuple) else str(given).split(",")
    names = [str(name) for name in listed]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"--{option} must be some of {', '.join(known)}, got {', '.join(unknown)}.")
    return names


def take_turns(size: str, keys: list[Key], rounds: int, batch_size: int, setting: Setting, path: Path) -> None:
    """Measure all methods at a size; what there is after a round is kept."""
    common = {"size": size, "deviation": checked_deviation(size, setting), **machine(setting)}
    facts = all_facts(size, keys, batch_size, setting)
    rows: list[Row] = []
    for number in range(rounds):
        ceilings = {dtype: in_fork(ceiling, setting._replace(dtype=dtype)) for dtype in {key[1] for key in keys}}
        first = number % len(keys)
        for name, dtype in (key for key in keys[first:] + keys[:first] if key in facts):
            _tell(f"{size}, round {number + 1} of {rounds}: {name}, {dtype}")
            fact = facts[name, dtype]
            seconds = in_fork(measure, name, size, fact["batch"], setting._replace(dtype=dtype))
            if seconds is None:
                _tell("did not fit")
                continue
            turn = {"arm": name, "dtype": dtype, "round": number, "ceiling_gflops": ceilings[dtype] / GIGA}
            rows.append(Row(**common, **turn, **fact, **seconds))
        replace_rows(path, rows)


def checked_deviation(size: str, setting: Setting) -> float:
    """How far the two BertsWin are apart; nothing is timed if that is too much."""
    _tell(f"{size}: do the two BertsWin agree?")
    found = [in_fork(deviation, size, False, setting), in_fork(deviation, "demo", True, setting)]
    if None in found:
        sys.exit(f"Comparing the two BertsWin at {size} takes more than --memory_gb {setting.memory_gb}.")
    if not max(found) <= TOLERANCE:
        sys.exit(f"The two BertsWin differ by {max(found):.1e} at {size}, more than {TOLERANCE:.0e}: nothing is timed.")
    return max(found)


def all_facts(size: str, keys: list[Key], batch_size: int, setting: Setting) -> dict[Key, dict[str, Any]]:
    """What is not time; methods that did not get the memory are left out."""
    found: dict[Key, dict[str, Any]] = {}
    for name, dtype in keys:
        _tell(f"{size}, memory and FLOPs: {name}, {dtype}")
        # a compiled network takes the batch of the eager one: it is slow to build for one after the other
        eager = found.get((eager_name(name), dtype))
        batch = eager["batch"] if eager else batch_size
        fact = in_fork(look_at, name, size, batch, setting._replace(dtype=dtype))
        if fact is None:
            _tell("did not fit")
        else:
            found[name, dtype] = fact
    return found


def _tell(text: str) -> None:
    """What is going on, while there is nothing to show."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    fire.Fire(run)
