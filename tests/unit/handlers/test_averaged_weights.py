"""The average is what it says, validation sees it, and training never does."""

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from bertswin_ext.handlers.averaged_weights import AveragedWeightsHandler
from tests.ranks import alone
from tests.unit.handlers.small_run import StoppedError, after_iteration, make_run, same


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Pictures are tested elsewhere."""
    monkeypatch.setattr("bertswin_ext.handlers.curves.save_png", lambda figure, path: None)


def averaged(folder, decay=0.9, **arguments):
    """A run with an average, which its checkpoints hold."""
    run = make_run(folder, **arguments)
    handler = AveragedWeightsHandler(run.trainer.network, run.evaluator, decay)
    handler.attach(run.trainer)
    run.checkpoint.state["average"] = handler
    return run, handler


def weights_of(run):
    return {name: parameter.detach().clone() for name, parameter in run.trainer.network.named_parameters()}


def weights_of_steps(run):
    """The weights before the first and after every optimizer step."""
    found = [weights_of(run)]
    run.trainer.optimizer.register_step_post_hook(lambda *_: found.append(weights_of(run)))
    return found


def by_hand(found, decay):
    average = found[0]
    for step, weights in enumerate(found[1:]):
        d = min(decay, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name] for name in average}
    return average


@pytest.mark.parametrize("epoch_length", [6, 5])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_counts_optimizer_steps(tmp_path, decay, epoch_length):
    """Two iterations are a step, and what is left at the end of an epoch is one, too."""
    run, handler = averaged(tmp_path, decay, epoch_length=epoch_length)
    found = weights_of_steps(run)
    run.trainer.run()
    assert handler.num_steps == len(found) - 1 == 9
    torch.testing.assert_close(dict(handler.average), by_hand(found, decay))
    assert same(handler.average, found[-1]) == (decay == 0.0)


def test_training_is_what_it_is_without(tmp_path):
    plain = make_run(tmp_path / "plain")
    plain.trainer.run()
    run, handler = averaged(tmp_path / "averaged")
    run.trainer.run()
    expected, outcome = plain.outcome(), run.outcome()
    assert [part for part in expected if not same(outcome[part], expected[part])] == ["rows", "best"]
    validated = [(a.pop("val_loss"), b.pop("val_loss")) for a, b in zip(expected["rows"], outcome["rows"], strict=True)]
    assert all(one != other for one, other in validated)
    assert outcome["rows"] == expected["rows"]
    assert not same(handler.average, weights_of(run))


def test_validation_and_its_file_see_the_average(tmp_path):
    run, _ = averaged(tmp_path)
    found, seen, after = weights_of_steps(run), [], []
    run.evaluator.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda _: seen.append(weights_of(run)))
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: after.append(weights_of(run)))
    run.trainer.run()
    torch.testing.assert_close(seen, [by_hand(found[: 1 + 3 * epoch], 0.9) for epoch in (1, 2, 3)])
    assert same(after, [found[3], found[6], found[9]])
    best = run.evaluator.state.best_metric_epoch
    assert same(dict(torch.load(tmp_path / "model.pt", weights_only=True)), seen[best - 1])


@pytest.mark.parametrize("iteration", [3, 8, 13])
def test_stopped_and_resumed_ends_as_one_that_was_not(tmp_path, iteration):
    whole, expected = averaged(tmp_path / "whole")
    whole.trainer.run()
    run, _ = averaged(tmp_path / "stopped", stop=after_iteration(iteration))
    with pytest.raises(StoppedError, match="stopped at iteration"):
        run.trainer.run()
    run, handler = averaged(tmp_path / "stopped", resume=True, init=99)
    run.trainer.run()
    assert same(handler.state_dict(), expected.state_dict())
    assert same(run.outcome(), whole.outcome())
    files = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "stopped")]
    assert same(*files)


def test_it_begins_with_the_weights_that_training_begins_with(tmp_path):
    """Also where they were loaded, or another process', after the handler was made."""
    run, handler = averaged(tmp_path, epochs=1)
    for parameter in run.trainer.network.parameters():
        nn.init.constant_(parameter, 3.0)
    found = weights_of_steps(run)
    run.trainer.run()
    torch.testing.assert_close(dict(handler.average), by_hand(found, 0.9))


def test_the_weights_of_a_checkpoint_are_those_that_training_goes_on_with(tmp_path):
    run, handler = averaged(tmp_path)
    run.trainer.run()
    content = torch.load(sorted((tmp_path / "checkpoints").iterdir())[-1], weights_only=True)
    assert same(dict(content["model"]), weights_of(run))
    assert same(content["average"], handler.state_dict())
    assert content["average"]["num_steps"] == 9


def test_a_second_run_does_not_count_twice(tmp_path):
    run, handler = averaged(tmp_path, epochs=1)
    run.trainer.run()
    run.checkpoint.resume = True
    run.trainer.state.max_epochs = 2
    run.trainer.run()
    assert handler.num_steps == 6


@pytest.mark.parametrize(
    ("average", "names"),
    [
        ({"weight": torch.zeros(1, 2), "bias": torch.zeros(3)}, "weight"),
        ({"weight": torch.zeros(3, 2)}, "bias"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(3), "scale": torch.zeros(1)}, "scale"),
    ],
)
def test_the_average_of_another_network_is_refused(average, names):
    handler = AveragedWeightsHandler(nn.Linear(2, 3), Engine(lambda engine, batch: None))
    with pytest.raises(ValueError, match=f"the average is one of other parameters: {names}."):
        handler.load_state_dict({"num_steps": 4, "average": average})
    assert handler.num_steps == 0


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_the_decay_is_a_share(decay):
    with pytest.raises(ValueError, match=rf"`decay` must lie in \[0, 1\), got {decay}\."):
        AveragedWeightsHandler(nn.Linear(2, 3), Engine(lambda engine, batch: None), decay)


def test_a_network_that_is_dealt_out_is_refused(tmp_path):
    with alone(tmp_path):
        network = nn.Linear(2, 3)
        network.weight = nn.Parameter(distribute_tensor(network.weight.detach(), init_device_mesh("cpu", (1,))))
        with pytest.raises(ValueError, match=r"dealt out to several processes cannot be averaged\. Train it without"):
            AveragedWeightsHandler(network, Engine(lambda engine, batch: None))
