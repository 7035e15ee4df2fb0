"""What a sample costs in every arm of `convergence.py`: FLOPs counted, seconds measured, parameters."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from torch.utils.flop_counter import FlopCounterMode

from fidelity.arms import ARMS, Job
from fidelity.configs import CONFIGS, parser_of

__all__ = ["Cost", "cost_of", "measure_seconds", "network_of", "paper_cost"]

_WARM_UP, _STEPS = 4, 16


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
        parameters: that are trained.
        forward: FLOPs of a sample.
        backward: FLOPs of a sample's backward pass, of one loss.
    """

    parameters: int
    forward: float
    backward: float

    def training(self, passes: int) -> float:
        """FLOPs of a training sample with so many backward passes."""
        return self.forward + passes * self.backward


def network_of(files: Sequence[str | Path], overrides: Mapping[str, Any]) -> torch.nn.Module:
    """The network of configs, without weights: on torch's meta device."""
    with torch.device("meta"):
        network: torch.nn.Module = parser_of(files, overrides).get_parsed_content("network_def")
    return network


def cost_of(files: Sequence[str | Path], overrides: Mapping[str, Any]) -> Cost:
    """Count parameters, and matrix products and convolutions of one sample."""
    network = network_of(files, overrides)
    edges = network.arguments["img_size"]  # type: ignore[index,union-attr]
    sizes = [edges] * 3 if isinstance(edges, int) else list(edges)
    with torch.device("meta"):
        with FlopCounterMode(display=False) as forward:
            total = network(torch.zeros(1, 1, *sizes))["reconstruction"].sum()
        with FlopCounterMode(display=False) as backward:
            total.backward()
    # MONAI's table of positions is a parameter that is not trained
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Cost(parameters, float(forward.get_total_flops()), float(backward.get_total_flops()))


def paper_cost(arm: str) -> Cost:
    """Of an arm's network at the paper's size, 224^3; a ViT-MAE has MONAI's default decoder."""
    return cost_of([CONFIGS / f"{name}.json" for name in ("train", *ARMS[arm].overlays)], ARMS[arm].large)


def measure_seconds(arm: str, dataset_dir: Path) -> float:
    """CPU seconds of one training sample, loading and augmentation included, in a fresh process of one thread."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_seconds, arm, dataset_dir).result()


def _seconds(arm: str, dataset_dir: Path) -> float:
    """Median of a few iterations."""
    torch.set_num_threads(1)
    job = Job(arm, 1, ARMS[arm].rates[0], 0)
    with tempfile.TemporaryDirectory() as folder:
        folders = {"dataset_dir": dataset_dir, "output_dir": folder}
        parser = parser_of(job.files, job.overrides | folders)
        trainer: Engine = parser.get_parsed_content("train::trainer")
        times: list[float] = []

        @trainer.on(Events.ITERATION_COMPLETED)
        def note(engine: Engine) -> None:
            times.append(time.process_time())
            if len(times) > _WARM_UP + _STEPS:
                engine.terminate()

        trainer.run()
    laps = sorted(end - start for start, end in zip(times[_WARM_UP:-1], times[_WARM_UP + 1 :], strict=True))
    return laps[len(laps) // 2] / int(parser.get_parsed_content("batch_size"))
