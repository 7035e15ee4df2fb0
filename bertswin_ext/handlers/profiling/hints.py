"""What to do about the time that training takes."""

from __future__ import annotations

import torch

from bertswin_ext.handlers.profiling.facts import MachineFacts, ProfileFacts
from bertswin_ext.handlers.profiling.iteration_parts import PARTS
from bertswin_ext.handlers.profiling.operator_times import device_seconds, product_share
from bertswin_ext.handlers.waiting import percent

__all__ = ["hints"]

# below these a hint would not pay
_WAITING = 0.05
_PREPARING = 0.2
_REST = 0.1
_BUSY = 0.7
_GAIN = 0.1


def hints(facts: ProfileFacts, most: int = 3) -> list[str]:
    """Plain advice from the numbers of a profile, what promises most first.

    Args:
        facts: what was measured.
        most: number of hints; one at least is given, if only that nothing stands out.
    """
    found = [_waiting(facts), _precision(facts), _idle_gpu(facts), _threads(facts), _preparing(facts), _rest(facts)]
    promising = sorted((hint for hint in found if hint is not None), key=lambda hint: -hint[0])
    return [text for _, text in promising[:most]] or [_nothing(facts)]


def _waiting(facts: ProfileFacts) -> tuple[float, str] | None:
    """Batches that come late."""
    share, machine = facts.share("data"), facts.machine
    if share <= _WAITING:
        return None
    return share, f"It waits for data {percent(share)} of the time. {_sooner(machine)}"


def _sooner(machine: MachineFacts) -> str:
    """How batches come sooner on this machine."""
    workers = machine.num_workers or 0
    advice = []
    if machine.cached_share is not None and machine.cached_share < 1:
        advice.append(f"`cache_rate` keeps {percent(machine.cached_share)} of the volumes in memory: raise it.")
    if workers + _busy_cores(machine) < machine.cores:
        advice.append(f"`num_workers` is {workers}, the machine has {machine.cores} cores: raise it.")
    else:
        advice.append(f"All {machine.cores} cores are taken, so more `num_workers` (now {workers}) would not help.")
    return " ".join(advice)


def _busy_cores(machine: MachineFacts) -> int:
    """Cores that the processes which train keep busy."""
    return machine.ranks * (machine.threads if machine.device_type == "cpu" else 1)


def _precision(facts: ProfileFacts) -> tuple[float, str] | None:
    """Products in float32 on a device that is faster in bfloat16."""
    machine = facts.machine
    speeds = machine.product_speeds
    if not machine.mixes or machine.dtype != torch.float32:
        return None
    times = speeds[torch.bfloat16] / speeds[torch.float32]
    share = product_share(facts.operators) * _computing(facts)
    gain = share * (1 - 1 / times)
    if gain < _GAIN:
        return None
    return gain, (
        f"Products of matrices take {percent(share)} of the time, and in bfloat16 they are {times:.1f} times as fast "
        "on this device: `--amp true`."
    )


def _computing(facts: ProfileFacts) -> float:
    """Share of the network, its gradients and their step in an iteration."""
    return sum(facts.share(part) for part in ("forward", "loss", "backward", "step"))


def _idle_gpu(facts: ProfileFacts) -> tuple[float, str] | None:
    """A GPU that has finished before it is told what comes next."""
    if facts.machine.device_type != "cuda" or not facts.operators:
        return None
    idle = 1 - device_seconds(facts.operators) / facts.seconds - facts.share("data")
    if idle < 1 - _BUSY:
        return None
    return idle, (
        f"The GPU has nothing to do {percent(idle)} of the time, waiting for data not counted: its kernels are too "
        "small for the time that it takes to start them. A larger `batch_size` gives it more at a time."
    )


def _threads(facts: ProfileFacts) -> tuple[float, str] | None:
    """Cores that nobody uses."""
    machine = facts.machine
    unused = machine.cores - _busy_cores(machine) - (machine.num_workers or 0)
    if machine.device_type != "cpu" or unused < 1 or machine.ranks > 1:
        return None
    return unused / machine.cores, (
        f"torch computes with {machine.threads} of {machine.cores} cores: set the environment variable "
        f"OMP_NUM_THREADS to {machine.threads + unused}, unless other programs need them."
    )


def _preparing(facts: ProfileFacts) -> tuple[float, str] | None:
    """Random transforms on the device."""
    share = facts.share("prepare")
    if share <= _PREPARING:
        return None
    return share, (
        f"Preparing the batch, which is copying it to the device and the random transforms there, takes "
        f"{percent(share)} of the time. In the trace it is the range `{PARTS['prepare']}`."
    )


def _rest(facts: ProfileFacts) -> tuple[float, str] | None:
    """Handlers at the end of an iteration."""
    share = facts.share("rest")
    if share <= _REST:
        return None
    return share, (
        f"Handlers take {percent(share)} of the time: log and save less often, `log_interval` and "
        "`checkpoint_interval`."
    )


def _nothing(facts: ProfileFacts) -> str:
    """Where the time goes when it goes where it should."""
    part = max(facts.part_seconds, key=lambda name: facts.part_seconds[name])
    return f"Nothing stands out. Most of the time, {percent(facts.share(part))}, is {PARTS[part]}."
