"""What several commands check, and say, in the same words."""

from __future__ import annotations

import shlex
from pathlib import Path

from bertswin_ext.voxels import VOXELS

__all__ = ["check_numbers", "check_paths", "how_to_train"]

_TRAIN = "python -m monai.bundle run --config_file bundles/pretrain/configs/train.json"
_SEVERAL = ("mandible", "skull", "noise_hu", "density")


def how_to_train(dataset: Path, spacing_mm: float = VOXELS.spacing_mm) -> str:
    """The command that trains on a data set."""
    spacing = "" if spacing_mm == VOXELS.spacing_mm else f" --spacing_mm {spacing_mm}"
    return f"To train on it: {_TRAIN} --dataset_dir {shlex.quote(str(dataset))}{spacing}"


def check_paths(**values: object) -> None:
    """Refuse a flag without its path, which fire reads as True; None stands for a flag left out."""
    for name, value in values.items():
        if value in ("True", "", True):
            raise TypeError(f"`--{name}` must be a path, got none.")


def check_numbers(*, whole: bool = False, **values: object) -> None:
    """Refuse what fire could not read as a number, or, where that may be, as several; None stands for a default."""
    kinds = int if whole else (int, float)
    for name, value in values.items():
        several = value if isinstance(value, list | tuple) and value and name in _SEVERAL else [value]
        if value is not None and not all(isinstance(v, kinds) and not isinstance(v, bool) for v in several):
            raise TypeError(f"`--{name}` must be a {'whole ' if whole else ''}number, got {value!r}.")
