"""What is known of a training run that was profiled."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import ignite.distributed as idist
import torch

from bertswin_ext.data.stream import SeededDataset
from bertswin_ext.handlers.profiling.operator_times import OperatorTime
from bertswin_ext.handlers.profiling.product_speed import product_speed
from bertswin_ext.hardware import processor_name, usable_cores
from bertswin_ext.versions import versions_of

__all__ = ["MachineFacts", "ProfileFacts", "machine_facts", "peak_bytes"]


@dataclass(frozen=True)
class MachineFacts:
    """What computes, and what it is given.

    Args:
        name: of the device.
        device_type: ``cpu``, ``cuda``, ...
        threads: of torch in this process.
        cores: that the process may use.
        ranks: processes that train together.
        versions: of packages by name.
        network: its class.
        num_parameters: of the network.
        dtype: of most products: bfloat16 under mixed precision.
        mixes: whether the trainer has mixed precision on this device; MONAI's own has it on GPUs only.
        num_workers: processes that load batches; None if the loader does not say.
        cached_share: share of the volumes that are kept in memory; None where keeping them is not what is done.
        product_speeds: operations per second of a large product by dtype.
    """

    name: str
    device_type: str
    threads: int
    cores: int
    ranks: int
    versions: dict[str, str]
    network: str
    num_parameters: int
    dtype: torch.dtype
    mixes: bool
    num_workers: int | None
    cached_share: float | None
    product_speeds: dict[torch.dtype, float]


@dataclass(frozen=True)
class ProfileFacts:
    """What was measured.

    Args:
        machine: where.
        timed: the first and the last iteration that were timed.
        traced: the first and the last iteration in the trace; None if there is no trace.
        iterations_per_step: iterations until the optimizer steps.
        samples: per iteration and process.
        iteration_seconds: of every timed iteration.
        part_seconds: means of the parts.
        peak_bytes: largest memory so far by name, before anything was recorded.
        operations: floating point operations of an iteration; None if they were not counted.
        operators: of the trace, the most expensive one first.
        shapes: the same, by shape of their inputs.
        notes: what is not as planned.
    """

    machine: MachineFacts
    timed: tuple[int, int]
    traced: tuple[int, int] | None
    iterations_per_step: int
    samples: float
    iteration_seconds: Sequence[float]
    part_seconds: dict[str, float]
    peak_bytes: dict[str, int] = field(default_factory=dict)
    operations: int | None = None
    operators: Sequence[OperatorTime] = ()
    shapes: Sequence[OperatorTime] = ()
    notes: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Mean length of an iteration."""
        return fmean(self.iteration_seconds)

    def share(self, part: str) -> float:
        """Share of a part in an iteration."""
        return self.part_seconds[part] / self.seconds


def machine_facts(engine: Any) -> MachineFacts:
    """Look at a trainer and at what it runs on.

    Args:
        engine: a `SupervisedTrainer` that runs.
    """
    device = torch.device(engine.state.device)
    network = getattr(engine.network, "module", engine.network)
    loader = engine.state.dataloader
    mixes = device.type == "cuda" or hasattr(engine, "conductor")
    dtype = engine.amp_kwargs.get("dtype", torch.float16) if engine.amp and mixes else torch.float32
    return MachineFacts(
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        device_type=device.type,
        threads=torch.get_num_threads(),
        cores=usable_cores(),
        ranks=idist.get_world_size(),
        versions=versions_of("bertswin_ext", "monai", "torch"),
        network=type(network).__name__,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        dtype=dtype,
        mixes=mixes,
        num_workers=getattr(loader, "num_workers", None),
        cached_share=_cached_share(getattr(loader, "dataset", None)),
        product_speeds={kind: product_speed(device, kind) for kind in {torch.float32, torch.bfloat16, dtype}},
    )


def peak_bytes(device: torch.device) -> dict[str, int]:
    """Largest memory since the process was started.

    Args:
        device: where the network computes.
    """
    peak = {}
    if device.type == "cuda":
        peak["of tensors on the GPU"] = torch.cuda.max_memory_allocated(device)
        peak["reserved on the GPU"] = torch.cuda.max_memory_reserved(device)
    if sys.platform != "win32":
        # this module exists on Unix only
        import resource

        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak["of the process, with the volumes that it keeps"] = resident * (1 if sys.platform == "darwin" else 1024)
    return peak


def _cached_share(dataset: Any) -> float | None:
    """How much of a data set is in memory; of prepared volumes only a part is read, and nothing is kept."""
    if not isinstance(dataset, SeededDataset):
        return None
    kept = sum(_has_volume(item) for item in dataset.cached())
    return kept / len(dataset) if kept or not dataset.cached() else None


def _has_volume(item: Any) -> bool:
    """Whether a volume is among the entries of an item."""
    return isinstance(item, Mapping) and any(isinstance(value, torch.Tensor) for value in item.values())
