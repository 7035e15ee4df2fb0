"""A class that is missing in a fold is named."""

import logging

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambda

from bertswin_ext.data.absent_classes import warn_of_absent_classes
from bertswin_ext.data.stream import SeededDataset

NAMES = ["background", "mandible", "skull"]


def dataset(items, **options):
    return SeededDataset(items, Compose([Lambda(lambda item: item)]), **options)


def label(*numbers):
    return {"label": torch.tensor(numbers, dtype=torch.uint8).reshape(1, 1, 1, -1)}


def said(caplog, **datasets):
    with caplog.at_level(logging.WARNING):
        warn_of_absent_classes(datasets, NAMES)
    return [record.getMessage() for record in caplog.records]


def test_a_class_that_no_label_has(caplog):
    messages = said(caplog, training=dataset([label(0, 1), label(0)]), validation=dataset([label(0, 1), label(2)]))
    assert messages == [
        "none of the 2 training volumes has a label of skull: add volumes that do, or choose another fold"
    ]


def test_places_of_classes_tell_as_well(caplog):
    """Of a stored label nothing else is kept in memory."""
    items = [{"class_voxels_mm": [np.zeros((5, 3)), np.zeros((0, 3)), np.zeros((0, 3))]}]
    assert "1 training volumes has a label of mandible and skull" in said(caplog, training=dataset(items))[0]


@pytest.mark.parametrize(
    ("items", "options"), [([label(0, 1, 2)], {}), ([], {}), ([label(0), label(0)], {"cache_rate": 0.5})]
)
def test_nothing_to_say(caplog, items, options):
    assert said(caplog, training=dataset(items, **options)) == []
