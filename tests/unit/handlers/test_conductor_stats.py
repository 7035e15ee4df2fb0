"""The conductor's statistics reach TensorBoard."""

from unittest import mock

import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertswin_ext.handlers import ConductorStatsHandler
from bertswin_ext.optimizers import GradientConductor


def make(folder, accumulation_steps=2, interval=1, bad=()):
    """A trainer of two opposed losses; in the iterations ``bad`` one is not finite."""
    model = torch.nn.Linear(2, 1, bias=False)
    conductor = GradientConductor(model, {"down": 1.0, "up": 0.5}, accumulation_steps=accumulation_steps)

    def step(engine, _batch):
        value = model(torch.ones(1, 2)).sum()
        factor = float("nan") if engine.state.iteration in bad else 1.0
        if conductor.accumulate({"down": value, "up": -value * factor}):
            conductor.conduct()

    engine = Engine(step)
    ConductorStatsHandler(conductor, folder, interval).attach(engine)
    return engine, conductor


def scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_step_is_written_under_its_iteration(tmp_path):
    engine, conductor = make(tmp_path)
    engine.run(range(6))
    found = scalars(tmp_path)
    assert found["conductor/cosine/down-up"] == [(2, -1), (4, -1), (6, -1)]
    assert {name.partition("/")[2] for name in found} == set(conductor.last_step.scalars())
    assert found["conductor/skipped_steps"] == [(2, 0), (4, 0), (6, 0)]


def test_the_interval_counts_steps(tmp_path):
    engine, _ = make(tmp_path, accumulation_steps=1, interval=3)
    engine.run(range(7))
    assert [step for step, _ in scalars(tmp_path)["conductor/conflicts"]] == [3, 6]


def test_a_skipped_step_is_always_counted(tmp_path):
    engine, _ = make(tmp_path, accumulation_steps=1, interval=100, bad=(2, 5))
    engine.run(range(6))
    assert scalars(tmp_path) == {"conductor/skipped_steps": [(2, 1), (5, 2)]}


def test_only_rank_zero_writes(tmp_path):
    engine, _ = make(tmp_path / "none")
    with mock.patch("ignite.distributed.get_rank", return_value=1):
        engine.run(range(4))
    assert not (tmp_path / "none").exists()


def test_interval_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`interval` must be a positive integer, got 0"):
        make(tmp_path, interval=0)
