"""Batches of samples that differ in size."""

import pickle

import pytest
import torch
from monai.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from bertswin_ext.data import Uncollated

SAMPLES = [{"image": torch.full((1, n, 2, 2), float(n)), "seed": n} for n in (2, 3, 5)]


def test_samples_of_any_size_come_through_a_loader():
    (batch,) = DataLoader(SAMPLES, batch_size=3, num_workers=0, collate_fn=Uncollated)
    assert len(batch) == 3
    assert [sample["image"].shape[1] for sample in batch] == [2, 3, 5]


def test_samples_come_from_a_worker():
    (batch,) = DataLoader(SAMPLES, batch_size=3, num_workers=1, collate_fn=Uncollated)
    assert [sample["seed"] for sample in batch] == [2, 3, 5]


def test_it_is_no_list_that_an_engine_would_take_apart():
    assert not isinstance(Uncollated(SAMPLES), list | dict | tuple)
    assert len(pickle.loads(pickle.dumps(Uncollated(SAMPLES)))) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_pins_the_tensors():
    pinned = pin_memory(Uncollated(SAMPLES))
    assert all(sample["image"].is_pinned() for sample in pinned)
    assert [sample["seed"] for sample in pinned] == [2, 3, 5]
