"""Where the parts of an iteration begin."""

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from bertswin_ext.engines import ConductedTrainer
from bertswin_ext.handlers.profiling.iteration_parts import PARTS, IterationParts
from bertswin_ext.optimizers import GradientConductor

ORDER = ["data", "rest", "prepare", "forward", "loss", "backward", "step", "rest", None]


class Telling(nn.Linear):
    """A network that tells when it is called."""

    def __init__(self, told):
        super().__init__(2, 2)
        self.told = told

    def forward(self, inputs):
        self.told.append("network")
        return super().forward(inputs)


def make(told, conducted=False, **arguments):
    network = Telling(told)

    def prepare(batch, device, non_blocking, **kwargs):
        told.append("batch")
        return batch, batch

    def loss(prediction, target):
        told.append("loss function")
        return (prediction - target).square().mean()

    shared = {
        "device": "cpu",
        "max_epochs": 2,
        "train_data_loader": [torch.ones(3, 2)] * 2,
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        "loss_function": loss,
        "prepare_batch": prepare,
        **arguments,
    }
    if conducted:
        return ConductedTrainer(conductor=GradientConductor(network, {"loss": 1.0}), **shared)
    return SupervisedTrainer(**shared)


@pytest.mark.parametrize("conducted", [False, True])
def test_parts_of_an_iteration(conducted):
    heard = []
    trainer = make([], conducted)
    IterationParts(heard.append).attach(trainer)
    trainer.run()
    assert heard == 4 * ORDER
    assert set(PARTS) == set(ORDER) - {None}


def test_what_happens_is_within_its_part():
    told = []
    trainer = make(told)
    IterationParts(told.append).attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: told.append("handler"))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: told.append("validation"))
    trainer.optimizer.register_step_pre_hook(lambda *_: told.append("optimizer"))
    trainer.run()
    expected = [
        *["data", "rest", "prepare", "batch", "forward", "network", "loss", "loss function"],
        *["backward", "step", "optimizer", "rest", "handler", None],
    ]
    assert told == 2 * [*expected, *expected, "validation"]


def test_a_second_run_is_heard_once():
    heard = []
    trainer = make([])
    IterationParts(heard.append).attach(trainer)
    trainer.run()
    trainer.state.max_epochs = 3
    trainer.run()
    assert heard == 6 * ORDER


def test_only_a_supervised_trainer_has_these_parts():
    with pytest.raises(
        TypeError, match="Only a SupervisedTrainer can be profiled, or a trainer made of it, got Engine"
    ):
        IterationParts(print).attach(Engine(lambda engine, batch: None))
