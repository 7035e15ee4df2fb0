"""The held-out volumes of `convergence.py`: what there is before training, and what trained networks make of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import nn

from bertswin_ext.evaluation.reconstruction_fidelity import composed_volume, scored_voxels
from bertswin_ext.networks.masking import choose_visible
from bertswin_ext.networks.weights import read_checkpoint
from fidelity.arms import Job
from fidelity.configs import parser_of
from fidelity.figures import Example

__all__ = ["examples", "values_at_end", "values_before_training"]


class FilledWithMean(nn.Module):
    """Fill what is hidden with the mean of what is visible: what a network can do that has learnt nothing.

    Args:
        patch_size: edge of a token in voxels.
        masking_ratio: share of hidden tokens, of all.
    """

    def __init__(self, patch_size: int, masking_ratio: float) -> None:
        super().__init__()
        self.patch_size, self.masking_ratio = patch_size, masking_ratio

    def forward(self, x: torch.Tensor, noise: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """As a masked autoencoder."""
        masked = torch.ones_like(valid)
        visible = choose_visible(noise, self.masking_ratio, valid, ratio_of="all")
        masked[visible.sample, visible.token] = False
        seen = ~scored_voxels({"masked": masked}, {"image": x}, self.patch_size)
        means = torch.stack([volume[where].mean() for volume, where in zip(x, seen, strict=True)])
        return {"reconstruction": means[:, None, None, None, None].expand_as(x), "masked": masked}


def values_before_training(job: Job, dataset_dir: Path) -> dict[str, float]:
    """Every metric of validation when hidden voxels are filled with the mean of the visible ones."""
    parser = _parser(job, dataset_dir)
    sizes = (parser.get_parsed_content(name) for name in ("patch_size", "masking_ratio"))
    evaluator = _evaluator(parser, FilledWithMean(*sizes))
    evaluator.run()
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


def values_at_end(job: Job, folder: Path, dataset_dir: Path) -> dict[str, float]:
    """Every metric of validation of a run's last weights, as many tokens being hidden as in all other runs.

    Args:
        job: a run whose share of hidden tokens was another.
        folder: of that run.
        dataset_dir: the datalist.
    """
    parser = _parser(job, dataset_dir)
    parser["masking_ratio"] = _parser(job._replace(change=""), dataset_dir)["masking_ratio"]
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(_last_weights(folder))
    evaluator = _evaluator(parser, network)
    evaluator.run()
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


def examples(jobs: Mapping[str, Job], runs: Path, dataset_dir: Path, indices: tuple[int, ...]) -> list[Example]:
    """Held-out volumes beside what the last weights of runs make of them.

    Args:
        jobs: a run for each arm, by its label.
        runs: folder of the runs.
        dataset_dir: the datalist.
        indices: of the volumes, in the order of the datalist.
    """
    found: dict[int, dict[str, np.ndarray]] = {index: {} for index in indices}
    frames: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}
    for label, job in jobs.items():
        parser = _parser(job, dataset_dir)
        network = parser.get_parsed_content("network_def")
        network.load_state_dict(_last_weights(runs / job.name))
        dataset, patch_size = parser.get_parsed_content("validate::dataset"), parser.get_parsed_content("patch_size")
        for index in indices:
            x, target, _, more = parser.get_parsed_content("validate::prepare_batch")([dataset[index]])
            with torch.no_grad():
                output = network.eval()(x, **more)
            hidden = scored_voxels(output, target, patch_size)[0, 0].numpy()
            original = target["image"][0, 0].numpy()
            item = parser.get_parsed_content("datalist").validation[index]
            frames[index] = item["patient"], original, np.where(hidden, np.nan, original)
            found[index][label] = composed_volume(output, target, patch_size)[0, 0].numpy()
    return [Example(*frames[index], found[index]) for index in frames]


def _last_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint of a run."""
    weights: dict[str, torch.Tensor] = read_checkpoint(sorted((folder / "checkpoints").glob("*.pt"))[-1])["model"]
    return weights


def _evaluator(parser: ConfigParser, network: nn.Module) -> Any:
    """The run's own evaluator with another network, and nothing written."""
    parser["validate::handlers"] = []
    parser["network"] = network
    return parser.get_parsed_content("validate::evaluator")


def _parser(job: Job, dataset_dir: Path) -> ConfigParser:
    """Configs of a run."""
    return parser_of(job.files, {**job.overrides, "dataset_dir": str(dataset_dir), "has_gpu": False})
