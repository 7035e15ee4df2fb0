"""What a step costs: plain AdamW, LionLARS, GradientConductor, and the aggregators of torchjd.

    pip install -c constraints.txt -e ".[mtl]"
    python benchmarks/conductor.py [--repeats 3] [--device cpu|cuda] [--threads 1] [--out table.md]

How to read the tables:

- *A step* is six micro-batches, then decide, update, clear. Every method in turn gets two or three micro-batches and
  the rest of a step, in an order that rotates, as often as ``repeats`` says; a step is six mean micro-batches and the
  rest. "x AdamW" compares with AdamW of the same round. Medians; brackets hold the smallest and the largest.
- *Peak memory* is everything alive at the worst moment of a step, parameters and optimizer included: tensors the
  allocator handed out on the CPU, `torch.cuda.max_memory_allocated` on a GPU.
- *Arithmetic* is a step without its forward and backward passes. It is timed on known gradients, whose backward pass
  is one product per parameter; "accumulate" is what is added to as many plain ``loss.backward()``, "both Gramians" the
  inner products with this step's rows and with those of the step before, which "decide" needs in a conflict only;
  "calls" are operations of torch (a foreach is one) in all but "accumulate": what counts where each is a launch.

One thread and its own CPU time by default: that can be repeated on a machine that others use too. Take the times as
those of one machine; what counts are the ratios. glibc is told to keep freed memory, as the allocator of a GPU does.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import fire
import torch
from methods import ActiveSetProjector, Conducted, Jacobian, Loop, Method
from tables import arithmetic_table, conclusions, step_table
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torchjd.aggregation import PCGrad, UPGrad

from bertswin_ext.losses import SubpatchStructureLoss
from bertswin_ext.networks import BertsWinMAE, bertswin_tiny
from bertswin_ext.optimizers import LionLARS

ACCUMULATION_STEPS = 6
# terms of the structural loss that make up each task
TASKS = {
    1: {"structural": ("brightness", "contrast", "structure")},
    2: {"intensity": ("brightness", "contrast"), "structure": ("structure",)},
    3: {"brightness": ("brightness",), "contrast": ("contrast",), "structure": ("structure",)},
}
# how much of the sum of three orthogonal vectors each of the known gradients lacks: cosines -0.5 and 0.5
CONFLICT, AGREEMENT = 0.3, -0.3

Make = Callable[[torch.nn.Module, int], Method]


@dataclass
class Workload:
    """A network, a volume, and the structural loss."""

    title: str
    network: torch.nn.Module
    volume: torch.Tensor
    criterion: SubpatchStructureLoss
    repeats: int

    def losses(self, tasks: Iterable[str]) -> dict[str, torch.Tensor]:
        """Forward pass, and the weighted loss of every task."""
        terms = self.criterion.terms(self.network(self.volume), self.volume)
        weights, members = self.criterion.loss_weights, TASKS[len(list(tasks))]
        return {task: sum(weights[name] * terms[name] for name in members[task]) for task in tasks}

    def parameter_bytes(self) -> int:
        """Memory of the parameters."""
        return sum(p.numel() * p.element_size() for p in self.network.parameters())


def run(repeats: int = 3, device: str = "cpu", threads: int = 1, out: str = "") -> None:
    """Measure and print the tables.

    Args:
        repeats: rounds on the large network; the small one and the arithmetic get more.
        device: "cpu" or "cuda".
        threads: of torch, on the CPU.
        out: also write the tables to this file.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _keep_memory()
    small = _workload("Small", bertswin_tiny(), 8, device, 5 * repeats)
    large = _workload("Large", _large_network(), 16, device, repeats)
    steps = {workload.title: step_times(workload) for workload in (small, large)}
    arithmetic = arithmetic_times(large.network, 2 * repeats - 1)
    parts = [
        _setting(device, threads),
        *(part for w in (small, large) for part in (_heading(w), step_table(steps[w.title], peak_memory(w)))),
        "### Arithmetic, large network",
        arithmetic_table(arithmetic),
        "### In short",
        conclusions(steps["Large"], arithmetic, backward_ratios(large), loop_deviation(large.network)),
    ]
    text = "\n\n".join(parts)
    print(text)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")


def _keep_memory() -> None:
    """Have glibc keep what is freed, or every method pays for fresh pages as chance has it."""
    if sys.platform == "linux":
        trim_threshold, mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def _workload(title: str, network: torch.nn.Module, patch_size: int, device: str, repeats: int) -> Workload:
    volume = torch.randn(1, 1, *network.img_size, device=device)
    return Workload(title, network.to(device), volume, SubpatchStructureLoss(patch_size), repeats)


def _large_network() -> torch.nn.Module:
    """53 M parameters."""
    return BertsWinMAE(img_size=96, hidden_size=576, num_layers=12, num_heads=9, window_size=3)


def step_methods() -> dict[str, tuple[Make, int]]:
    """How to make every method that is timed with real passes, and micro-batches to time of a step."""
    found: dict[str, tuple[Make, int]] = {
        "AdamW": (_plain(torch.optim.AdamW), 2),
        "AdamW fused": (_plain(torch.optim.AdamW, fused=True), 2),
        "LionLARS": (_plain(LionLARS), 2),
    }
    for num_tasks in TASKS:
        found[f"conductor, K = {num_tasks}, classic"] = (_conducted(num_tasks, "classic"), 2)
    for num_tasks in (2, 3):
        found[f"conductor, K = {num_tasks}, stochastic"] = (_conducted(num_tasks, "stochastic"), num_tasks)
    for name, aggregator in _aggregators().items():
        found[f"torchjd {name}, K = 3"] = (_jacobian(aggregator), 2)
    return found


def _aggregators() -> dict[str, torch.nn.Module]:
    return {"PCGrad": PCGrad(), "UPGrad": UPGrad(projector=ActiveSetProjector())}


def _plain(optimizer: type[torch.optim.Optimizer], num_tasks: int = 1, **options: object) -> Make:
    return lambda network, steps: Method(
        network, optimizer(network.parameters(), lr=1e-6, **options), TASKS[num_tasks], steps
    )


def _conducted(num_tasks: int, accumulation: str = "classic") -> Make:
    return lambda network, steps: Conducted(
        network, LionLARS(network.parameters(), lr=1e-6), TASKS[num_tasks], steps, accumulation
    )


def _jacobian(aggregator: torch.nn.Module) -> Make:
    return lambda network, steps: Jacobian(
        network, LionLARS(network.parameters(), lr=1e-6), TASKS[3], steps, aggregator
    )


def step_times(workload: Workload) -> dict[str, list[dict[str, float]]]:
    """Seconds of a micro-batch, of the rest, and of a whole step, by method, one entry per round."""
    methods = {name: (make(workload.network, count), count) for name, (make, count) in step_methods().items()}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    names = list(methods)
    for turn in range(workload.repeats + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            method, count = methods[name]
            batch = sum(_seconds(lambda m=method: m.backward(workload.losses(m.tasks))) for _ in range(count)) / count
            rest = sum(_finish(method).values())
            if turn:  # the first round makes the optimizers' state
                times[name].append({"batch": batch, "rest": rest, "step": ACCUMULATION_STEPS * batch + rest})
    return times


def _finish(method: Method) -> dict[str, float]:
    """Seconds of what follows the micro-batches of a step."""
    return {part: _seconds(getattr(method, part)) for part in ("decide", "update", "clear")}


def _seconds(call: Callable[[], object]) -> float:
    # the time of one thread on the CPU does not contain what other programs took
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_initialized()
    clock = time.process_time if alone else time.perf_counter
    _wait()
    start = clock()
    call()
    _wait()
    return clock() - start


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def peak_memory(workload: Workload) -> dict[str, float]:
    """Bytes at the worst moment of a step, by method."""
    found = {}
    for name, (make, count) in step_methods().items():
        for num_tasks in TASKS:
            known_gradients(workload.network, num_tasks, AGREEMENT)
        found[name] = workload.parameter_bytes() + _peak(
            lambda make=make, count=count: _two_steps(workload, make, count)
        )
    return found


def _two_steps(workload: Workload, make: Make, count: int) -> None:
    """A step that makes all state, then one that finds gradients and takes in one more micro-batch."""
    method = make(workload.network, count)
    for is_second in (False, True):
        method.backward(known_losses(workload.network, len(method.tasks), AGREEMENT))
        if is_second:
            method.backward(workload.losses(method.tasks))
        _finish(method)


def _peak(call: Callable[[], None]) -> int:
    """Most bytes that were allocated during a call, less those from before."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@cache
def known_gradients(network: torch.nn.Module, num_tasks: int, conflict: float) -> list[torch.Tensor]:
    """Random vectors e_k less ``conflict`` times the sum of all e_k: (K, ...) for every parameter."""
    parameters = list(network.parameters())
    generator = torch.Generator(parameters[0].device).manual_seed(1)
    rows = [torch.randn(num_tasks, *p.shape, device=p.device, generator=generator) for p in parameters]
    return [row - conflict * row.sum(dim=0) for row in rows]


def known_losses(network: torch.nn.Module, num_tasks: int, conflict: float) -> dict[str, torch.Tensor]:
    """Losses that have the known gradients."""
    pairs = list(zip(network.parameters(), known_gradients(network, num_tasks, conflict), strict=True))
    return {
        task: torch.stack([(parameter * rows[index]).sum() for parameter, rows in pairs]).sum()
        for index, task in enumerate(TASKS[num_tasks])
    }


def arithmetic_methods() -> dict[str, tuple[Make, float]]:
    """How to make every method that is timed on known gradients, and these gradients' conflict."""
    return {
        "AdamW": (_plain(torch.optim.AdamW), AGREEMENT),
        "AdamW fused": (_plain(torch.optim.AdamW, fused=True), AGREEMENT),
        "LionLARS": (_plain(LionLARS), AGREEMENT),
        "LionLARS, K = 2": (_plain(LionLARS, 2), AGREEMENT),
        "LionLARS, K = 3": (_plain(LionLARS, 3), AGREEMENT),
        "conductor, K = 1": (_conducted(1), AGREEMENT),
        "conductor, K = 2": (_conducted(2), CONFLICT),
        "conductor, K = 3, no conflict": (_conducted(3), AGREEMENT),
        "conductor, K = 3": (_conducted(3), CONFLICT),
        "loop, K = 3, no conflict": (lambda network, steps: Loop(network, TASKS[3], steps), AGREEMENT),
        "loop, K = 3": (lambda network, steps: Loop(network, TASKS[3], steps), CONFLICT),
        **{f"torchjd {name}, K = 3": (_jacobian(aggregator), CONFLICT) for name, aggregator in _aggregators().items()},
    }


def arithmetic_times(network: torch.nn.Module, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of the parts of a step on known gradients, by method, one entry per round."""
    methods = {name: (make(network, 2), conflict) for name, (make, conflict) in arithmetic_methods().items()}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
    calls = {}
    for turn in range(repeats + 2):
        for name, (method, conflict) in methods.items():
            first, later = (_known_backward(method, network, conflict) for _ in range(2))
            parts = {"backward": first + (ACCUMULATION_STEPS - 1) * later, "gramians": _gramians(method)}
            with _Calls() if turn == 1 else nullcontext() as counter:
                parts |= _finish(method)
            if turn == 1:  # the round before made the optimizers' state
                calls[name] = counter.number
            elif turn:
                times[name].append(parts | {"calls": calls[name]})
    return times


class _Calls(TorchDispatchMode):
    """Count the operations of torch, views included."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


def _known_backward(method: Method, network: torch.nn.Module, conflict: float) -> float:
    """Seconds to take in a micro-batch of known gradients."""
    losses = known_losses(network, len(method.tasks), conflict)
    return _seconds(lambda: method.backward(losses))


def _gramians(method: Method) -> float:
    """Seconds of the inner products alone; 0 for a method that has none in one place."""
    if not isinstance(method, Conducted) or len(method.tasks) == 1:
        return 0.0
    bank = method.conductor.bank
    return _seconds(lambda: (bank.gramian(), bank.cross_gramian()))


def backward_ratios(workload: Workload) -> list[float]:
    """Time of `accumulate` over that of as many plain backward passes, K = 3, with the network's own graph."""
    conducted, plain = _conducted(3)(workload.network, 100), _plain(LionLARS, 3)(workload.network, 100)
    found = []
    for _ in range(workload.repeats + 1):
        seconds = []
        for method in (conducted, plain):
            losses = workload.losses(method.tasks)
            seconds.append(_seconds(lambda m=method, given=losses: m.backward(given)))
        found.append(seconds[0] / seconds[1])
    return found[1:]


def loop_deviation(network: torch.nn.Module) -> float:
    """Largest difference between the gradients of the conductor and of the loop, relative to the largest entry."""
    methods = [make(network, 1) for make in (_conducted(3), lambda network, steps: Loop(network, TASKS[3], steps))]
    gradients = []
    for method in methods:
        method.backward(known_losses(network, 3, CONFLICT))
        method.decide()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in method.parameters]))
        method.clear()
    return float((gradients[0] - gradients[1]).abs().max() / gradients[1].abs().max())


def _setting(device: str, threads: int) -> str:
    where = torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {threads} thread(s)"
    return (
        f"## Cost of a step\n\ntorch {torch.__version__}, {where}, float32. Medians; smallest and largest in brackets."
    )


def _heading(workload: Workload) -> str:
    millions = sum(p.numel() for p in workload.network.parameters()) / 1e6
    shape = " x ".join(map(str, workload.volume.shape[2:]))
    return f"### {workload.title} network: {millions:.1f} M parameters, volume {shape}, batch 1"


if __name__ == "__main__":
    fire.Fire(run)
