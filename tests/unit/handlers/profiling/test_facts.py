"""What is known of the machine and the trainer."""

import os

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, Lambdad, RandGaussianNoised, RandLambdad
from torch import nn

from bertswin_ext.data import SeededDataset
from bertswin_ext.engines import ConductedTrainer
from bertswin_ext.handlers.profiling.facts import ProfileFacts, machine_facts, peak_bytes
from bertswin_ext.optimizers import GradientConductor


def make_loader(cache_rate=0.5, transforms=()):
    """Volumes that are there before the first random transform, or only after it."""
    transform = Compose([*transforms, Lambdad("image", lambda _: torch.ones(2)), RandGaussianNoised("image")])
    return DataLoader(SeededDataset([{"image": n} for n in range(4)], transform, cache_rate=cache_rate), batch_size=2)


def run(conducted=False, loader=None, **arguments):
    """A trainer that has run."""
    network = nn.Linear(2, 3)
    shared = {
        "device": "cpu",
        "max_epochs": 1,
        "train_data_loader": loader or make_loader(),
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        "loss_function": lambda prediction, target: prediction.mean(),
        "prepare_batch": lambda batch, device, non_blocking, **kwargs: 2 * (batch["image"],),
        **arguments,
    }
    if conducted:
        trainer = ConductedTrainer(conductor=GradientConductor(network, {"loss": 1.0}), **shared)
    else:
        trainer = SupervisedTrainer(**shared)
    trainer.run()
    return trainer


def test_machine_and_trainer():
    facts = machine_facts(run())
    assert facts.device_type == "cpu"
    assert facts.name
    assert (facts.threads, facts.cores, facts.ranks) == (torch.get_num_threads(), len(os.sched_getaffinity(0)), 1)
    assert (facts.network, facts.num_parameters) == ("Linear", 9)
    assert (facts.num_workers, facts.cached_share) == (0, 0.5)
    assert {"torch", "monai", "bertswin_ext", "python"} == set(facts.versions)


def test_a_loader_that_says_nothing():
    facts = machine_facts(run(loader=[{"image": torch.ones(2, 2)}]))
    assert (facts.num_workers, facts.cached_share) == (None, None)


@pytest.mark.parametrize(("cache_rate", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_volumes_in_memory(cache_rate, share):
    assert machine_facts(run(loader=make_loader(cache_rate))).cached_share == share


def test_prepared_volumes_are_not_kept():
    loader = make_loader(1.0, [RandLambdad("image", lambda n: n)])
    assert machine_facts(run(loader=loader)).cached_share is None


@pytest.mark.parametrize(
    ("arguments", "dtype", "mixes"),
    [
        ({"conducted": True}, torch.float32, True),
        ({"conducted": True, "amp": True, "amp_kwargs": {"dtype": torch.bfloat16}}, torch.bfloat16, True),
        ({}, torch.float32, False),
    ],
)
def test_precision_in_effect(arguments, dtype, mixes):
    facts = machine_facts(run(**arguments))
    assert (facts.dtype, facts.mixes) == (dtype, mixes)
    assert {torch.float32, torch.bfloat16} <= facts.product_speeds.keys()
    assert min(facts.product_speeds.values()) > 0


def test_peak_memory_only_grows():
    (before,) = peak_bytes(torch.device("cpu")).values()
    assert 1e8 < before < 1e13  # torch alone has more than 100 MB
    (after,) = peak_bytes(torch.device("cpu")).values()
    assert after >= before


def test_mean_and_shares():
    parts = {"data": 0.5, "forward": 1.5}
    facts = ProfileFacts(None, (1, 2), None, 1, 4, iteration_seconds=[1.0, 3.0], part_seconds=parts)
    assert facts.seconds == 2.0
    assert facts.share("data") == 0.25
