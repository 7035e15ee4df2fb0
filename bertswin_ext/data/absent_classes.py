"""Classes that a section of the data does not show."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bertswin_ext.data.stream import SeededDataset

__all__ = ["warn_of_absent_classes"]

logger = logging.getLogger(__name__)


def warn_of_absent_classes(datasets: Mapping[str, SeededDataset], class_names: Sequence[str]) -> None:
    """Say which classes no label of a section has: they cannot be learnt from it, or not be measured on it.

    Only what a dataset has cached is looked at; one that does not cache all its items is passed over.

    Args:
        datasets: datasets by the name of their section.
        class_names: names of the labels' values from 0 on.
    """
    for section, dataset in datasets.items():
        if not len(dataset) or dataset.cache_num < len(dataset):
            continue
        present = set().union(*(_classes_of(item) for item in dataset.cached()))
        absent = [name for number, name in enumerate(class_names) if number and number not in present]
        if absent:
            logger.warning(
                "none of the %d %s volumes has a label of %s: add volumes that do, or choose another fold",
                len(dataset),
                section,
                " and ".join(absent),
            )


def _classes_of(item: Mapping[str, Any]) -> set[int]:
    """Numbers of the classes that an item shows."""
    if "class_voxels_mm" in item:
        return {number for number, places in enumerate(item["class_voxels_mm"]) if len(places)}
    return {int(number) for number in torch.unique(torch.as_tensor(item["label"]))} if "label" in item else set()
