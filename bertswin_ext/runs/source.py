"""Where a run's volumes come from: the user's, or phantoms."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bertswin_ext.data.datalist import Datalist, load_datalist
from bertswin_ext.data.phantoms.phantom import GENERATOR_VERSION
from bertswin_ext.data.phantoms.phantom_files import write_phantoms

__all__ = ["open_datalist"]

logger = logging.getLogger(__name__)


def open_datalist(
    dataset_dir: str | Path | None,
    phantom_dir: str | Path,
    phantoms: Mapping[str, Any],
    fold: int = 0,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Datalist:
    """The volumes of a run, split by patient.

    Args:
        dataset_dir: a datalist (``.json``) or a folder of volumes; nothing means phantoms, written once and reused.
        phantom_dir: folder of the phantoms.
        phantoms: arguments of `write_phantoms`: ``count``, ``size``, ``spacing_mm``, ``seed``, ...
        fold: fold that validates, where the datalist has folds.
        val_fraction: share of the patients that validate, where it has none.
        seed: seed of that split.

    Returns:
        Training and validation items.

    Raises:
        ValueError: the datalist has faults; the message lists all of them.
    """
    source = dataset_dir or _phantoms(Path(phantom_dir), phantoms)
    datalist = load_datalist(source, fold=fold, val_fraction=val_fraction, seed=seed)
    logger.info(
        "%d training and %d validation volumes from %s", len(datalist.training), len(datalist.validation), source
    )
    return datalist


def _phantoms(parent: Path, arguments: Mapping[str, Any]) -> Path:
    """The datalist of the phantoms, written by the first process that gets here."""
    name = "_".join(f"{key}-{value}" for key, value in sorted(arguments.items()))
    folder = parent / f"phantoms_v{GENERATOR_VERSION}_{name}".replace(" ", "").replace("/", "-")
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.warning("no `dataset_dir` given: using synthetic TMJ phantoms in %s", folder)
        write_phantoms(folder, **arguments)
    if dist.is_initialized():
        dist.barrier()
    return folder / "datalist.json"
