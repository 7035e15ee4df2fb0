"""Read off a configuration what decides about the cost of a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from bertswin_ext.errors import listed
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.runs.config_check import config_problems, known_ids
from bertswin_ext.runs.network_cost import network_cost
from bertswin_ext.runs.run_cost import RunPlan

__all__ = ["read_plan"]

_NETWORK = "bertswin_ext.networks.BertsWinMAE"
_SHARDED = "Sharded"
_MOMENTA = {"LionLARS": 1, "SGD": 1, "AdamW": 2, "Adam": 2}


def read_plan(
    config_file: str | Sequence[str], overrides: Mapping[str, Any] | None = None, on_gpu: bool = True
) -> RunPlan:
    """Read the configuration of a pre-training run; no data are opened, and no network is built.

    Args:
        config_file: train.json of the pre-training bundle, or a list of it and its overlays.
        overrides: entries to replace, by name: ``{"epochs": 100}``.
        on_gpu: whether the run has a GPU, on which the configuration's defaults depend, whatever this machine has.

    Raises:
        ValueError: a file is missing, an entry does not exist or counts nothing, or the network is another one.
    """
    files = [config_file] if isinstance(config_file, str) else [str(entry) for entry in config_file]
    parser = _parser(files, dict(overrides or {}), on_gpu)
    names = ("loss_weights", "accumulation", "accumulation_steps", "resolver", "dtype", "previous_dtype")
    conductor = _resolved(parser, "conductor", *names)
    trainer = _resolved(parser, "train::trainer", "max_epochs", "epoch_length", "amp")
    batch_size = parser.get_parsed_content("batch_size")
    _check_counts(conductor["accumulation_steps"], batch_size, trainer["max_epochs"], trainer["epoch_length"])
    num_losses = len(conductor["loss_weights"])
    mixed = bool(trainer["amp"])
    iterations = trainer["max_epochs"] * math.ceil(trainer["epoch_length"] / conductor["accumulation_steps"])
    optimizer = str(parser["optimizer"]["_target_"]).rsplit(".", 1)[-1].removeprefix(_SHARDED)
    row_bytes = (conductor.get("dtype") or torch.float32).itemsize
    previous_bytes = (conductor.get("previous_dtype") or conductor.get("dtype") or torch.float32).itemsize
    keeps_previous = num_losses > 1 and isinstance(conductor["resolver"], str)
    return RunPlan(
        network=network_cost(_network(parser, files), mixed),
        num_losses=num_losses,
        row_bytes=row_bytes,
        previous_bytes=previous_bytes if keeps_previous else 0,
        accumulation=conductor["accumulation"],
        accumulation_steps=conductor["accumulation_steps"],
        batch_size=batch_size,
        num_steps=iterations,
        momenta=_MOMENTA.get(optimizer, 2),
        mixed=mixed,
        sharded=_SHARDED in str(parser["conductor"]["_target_"]),
    )


def _parser(files: Sequence[str], overrides: dict[str, Any], on_gpu: bool) -> ConfigParser:
    """The configuration as MONAI merges it, checked."""
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"`config_file` must name configurations, {file} does not exist.")
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(overrides)
    problems = config_problems(parser.config, known_ids(Path(files[0]).resolve().parents[1]))
    if problems:
        raise ValueError(listed(problems, ", ".join(files)))
    parser["has_gpu"] = overrides.get("has_gpu", on_gpu)
    if on_gpu and isinstance(parser.config.get("amp"), str):
        # asked of this machine otherwise, which may have no GPU
        parser["amp"] = True
    # the bundle's folder is on Python's path only when MONAI runs it; nothing that is read here needs it
    parser["imports"] = [line for line in parser.config.get("imports", []) if "import here_" not in line]
    return parser


def _resolved(parser: ConfigParser, component: str, *names: str) -> dict[str, Any]:
    """Some arguments of a component, which is not built."""
    given = parser[component]
    return {name: parser.get_parsed_content(f"{component}::{name}") for name in names if name in given}


def _check_counts(*counts: object) -> None:
    """What came of the configuration's expressions."""
    if any(type(count) is not int or count < 1 for count in counts):
        raise ValueError(
            "`epochs`, `steps_per_epoch`, `accumulation_steps` and `batch_size` must be whole numbers from 1 on; with "
            f"them accumulation, batch, epochs and iterations of an epoch are {counts}."
        )


def _network(parser: ConfigParser, files: Sequence[str]) -> BertsWinMAE:
    """The network, without memory."""
    target = parser["network_def"]["_target_"] if "network_def" in parser.config else "none"
    if target != _NETWORK or "@network_def" not in str(parser.config.get("network")):
        raise ValueError(
            f"{', '.join(files)} must train {_NETWORK} as a whole, as train.json of the pre-training bundle does; the "
            f"costs of other trainings are not known. Its network: {parser.config.get('network', 'none')}, of {target}."
        )
    names = [name for name in parser["network_def"] if name in inspect.signature(BertsWinMAE).parameters]
    arguments = {name: parser.get_parsed_content(f"network_def::{name}") for name in names}
    with torch.device("meta"):
        return BertsWinMAE(**arguments)
