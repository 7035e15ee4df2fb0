"""What handlers read from engines and optimizers."""

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from bertswin_ext.handlers.engine_values import (
    check_optimizer,
    check_positive,
    learning_rate,
    scalar_metrics,
    scalar_outputs,
)


def test_losses_are_read_without_a_graph():
    trainer = Engine(lambda e, b: {"loss": torch.ones((), requires_grad=True), "loss_terms": {"a": torch.ones(())}})
    found = {}
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.update(scalar_outputs(e)))
    trainer.run([0])
    assert set(found) == {"loss", "a"}
    assert not found["loss"].requires_grad
    trainer.state.output = [{"loss": torch.tensor(2.0)}, {"loss": torch.tensor(2.0)}]
    assert scalar_outputs(trainer)["loss"].item() == 2.0


@pytest.mark.parametrize("output", [None, [], {"pred": 1}, torch.ones(1)])
def test_no_losses(output):
    engine = Engine(lambda e, b: None)
    engine.state.output = output
    assert scalar_outputs(engine) == {}


def test_scalar_metrics():
    engine = Engine(lambda e, b: None)
    engine.state.metrics = {"a": torch.tensor([1.5]), "b": np.float32(2), "c": torch.ones(2), "d": "text", "e": 3}
    assert scalar_metrics(engine) == {"a": 1.5, "b": 2.0, "e": 3.0}


def test_learning_rate_is_the_largest():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.3, 0.2)]
    optimizer = torch.optim.SGD(groups)
    assert learning_rate(optimizer) == 0.3
    assert check_optimizer(optimizer) is optimizer
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got dict. Pass the optimizer"):
        check_optimizer({})


@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_what_is_not_a_positive_integer(value):
    check_positive("interval", 1)
    with pytest.raises(ValueError, match=r"`interval` must be a positive integer, got .*\. Use 1 or more\."):
        check_positive("interval", value)
