"""Where a run's volumes come from: the user's, or phantoms."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bertswin_ext.data.datalist import Datalist, Item, load_datalist, load_items
from bertswin_ext.data.phantoms.phantom import GENERATOR_VERSION
from bertswin_ext.data.phantoms.phantom_files import write_phantoms
from bertswin_ext.data.source_items import source_items
from bertswin_ext.deployment.scan_source import Scans, open_scans
from bertswin_ext.errors import listed

__all__ = ["LabelledItems", "open_datalist", "open_volumes", "scans_to_segment"]

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


class LabelledItems:
    """The labelled volumes of a run, opened when they are asked for.

    Where other items take their place, as MONAI Label has it, nothing is read and no phantoms are written.

    Args:
        **arguments: those of `open_datalist`.
    """

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    @property
    def training(self) -> list[Item]:
        """Items to learn from.

        Raises:
            ValueError: items have no label, or the datalist has other faults; the message lists all of them.
        """
        return self._datalist.training

    @property
    def validation(self) -> list[Item]:
        """Items to measure on; faults as in `training`."""
        return self._datalist.validation

    @cached_property
    def _datalist(self) -> Datalist:
        """The datalist, read once."""
        datalist = open_datalist(**self.arguments)
        _check_labels([*datalist.training, *datalist.validation], datalist.source)
        return datalist


def open_volumes(
    dataset_dir: str | Path | None, phantom_dir: str | Path, phantoms: Mapping[str, Any], with_label: bool = False
) -> list[Item]:
    """The volumes to apply a network to, all of them.

    Args:
        dataset_dir: a volume, a folder of volumes or of one DICOM series, or a datalist; nothing means phantoms,
            written once and reused.
        phantom_dir: folder of the phantoms.
        phantoms: arguments of `write_phantoms`.
        with_label: every item must have a label, to be scored against.

    Returns:
        Items as in a datalist; ``folder`` is where an image lies below the source.

    Raises:
        ValueError: there are no volumes, or the datalist has faults.
    """
    source = dataset_dir or _phantoms(Path(phantom_dir), phantoms)
    items = source_items(source, "dataset_dir")
    if with_label:
        _check_labels(items, str(source))
    logger.info("%d volumes from %s", len(items), source)
    return items


def scans_to_segment(
    source: str | Path | Sequence[str | Path] | None,
    phantom_dir: str | Path,
    phantoms: Mapping[str, Any],
    joints: Mapping[str, Sequence[float]] | None = None,
    landmarks: str | Path | None = None,
) -> Scans:
    """The scans to find joints in and to segment.

    Args:
        source: what `open_scans` takes; nothing means phantoms, written once and reused, and nothing is said of their
            joints.
        phantom_dir: folder of the phantoms.
        phantoms: arguments of `write_phantoms`.
        joints: the joints of a single scan.
        landmarks: a table of the joints of many.

    Raises:
        ValueError: as `open_scans` does.
    """
    if not source:
        items = load_items(_phantoms(Path(phantom_dir), phantoms))
        source = [item["image"] for section in items.values() for item in section]
    return open_scans(source, joints, landmarks)


def _check_labels(items: Sequence[Item], source: str) -> None:
    """Raise if an item has no label."""
    without = [item["image"] for item in items if "label" not in item]
    if without:
        faults = [f"{image}: has no label" for image in without]
        raise ValueError(f"{listed(faults, source)}\nGive every item a `label`, or leave those without one out.")


def _phantoms(parent: Path, arguments: Mapping[str, Any]) -> Path:
    """The datalist of the phantoms, written by the first process that gets here."""
    name = "_".join(f"{key}-{value}" for key, value in sorted(arguments.items()))
    folder = parent / f"phantoms_v{GENERATOR_VERSION}_{name}".replace(" ", "").replace("/", "-")
    if not dist.is_initialized() or dist.get_rank() == 0:
        logger.warning("no data given: using synthetic TMJ phantoms in %s", folder)
        write_phantoms(folder, **arguments)
    if dist.is_initialized():
        dist.barrier()
    return folder / "datalist.json"
