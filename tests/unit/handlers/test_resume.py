"""A run that was stopped and resumed ends as one that was not, to the last bit."""

import logging
import random

import numpy as np
import pytest
import torch
from ignite.engine import Events

from bertswin_ext.handlers.resume import ResumeHandler, _RandomState
from tests.unit.handlers.small_run import StoppedError, after_iteration, make_run, same

LAST = 18


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Pictures are tested elsewhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("bertswin_ext.handlers.curves.save_png", lambda figure, path: None)
    yield
    torch.set_num_threads(before)


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def newest(folder):
    return folder / "checkpoints" / names(folder)[-1]


def finished(folder, **arguments):
    run = make_run(folder, **arguments)
    run.trainer.run()
    return run


def stopped(folder, stop, **arguments):
    with pytest.raises(StoppedError, match="stopped at iteration"):
        make_run(folder, stop=stop, **arguments).trainer.run()


def resumed(folder, **arguments):
    """Fresh objects: other initial weights and another random state than the run that was stopped."""
    return finished(folder, resume=True, init=99, **arguments)


# --- bit for bit ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What runs end with that nobody stopped: with epochs of whole optimizer steps, and with a rest at their end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bertswin_ext.handlers.curves.save_png", lambda figure, path: None)
        ends = {}
        for epoch_length in (6, 5):
            folder = tmp_path_factory.mktemp("whole")
            outcome = finished(folder, epoch_length=epoch_length).outcome()
            ends[epoch_length] = outcome, torch.load(folder / "model.pt", weights_only=True)
    return ends


def differing(outcome, expected):
    return [name for name in expected if not same(outcome[name], expected[name])]


STOPS = [
    *((6, 1, n) for n in range(1, LAST + 1)),
    *((6, 2, n) for n in (7, 11, 15)),
    *((5, 1, n) for n in (4, 5, 9, 13)),
]


@pytest.mark.parametrize(("epoch_length", "interval", "iteration"), STOPS)
def test_stopped_after_any_iteration(tmp_path, whole, epoch_length, interval, iteration):
    expected, best = whole[epoch_length]
    stopped(tmp_path, after_iteration(iteration), epoch_length=epoch_length, interval=interval)
    init = 99 if (tmp_path / "checkpoints").exists() else 0
    run = finished(tmp_path, resume=True, init=init, epoch_length=epoch_length, interval=interval)
    assert differing(run.outcome(), expected) == []
    assert same(torch.load(tmp_path / "model.pt", weights_only=True), best)


@pytest.mark.parametrize("event", [Events.EPOCH_COMPLETED(once=1), Events.EPOCH_COMPLETED(once=2), Events.COMPLETED])
def test_stopped_around_an_epoch(tmp_path, whole, event):
    expected, _ = whole[6]
    stopped(tmp_path, event)
    assert differing(resumed(tmp_path).outcome(), expected) == []


def test_stopped_twice_and_with_workers(tmp_path, whole):
    stopped(tmp_path, after_iteration(5))
    stopped(tmp_path, after_iteration(12), resume=True, init=7)
    assert differing(resumed(tmp_path, num_workers=1).outcome(), whole[6][0]) == []


def test_the_comparison_is_a_real_one(tmp_path, whole):
    """Without the checkpoint's random state, dropout makes the runs differ."""
    stopped(tmp_path, after_iteration(7))
    run = make_run(tmp_path, resume=True, init=99)
    del run.checkpoint.state["random"]
    run.trainer.run()
    assert "model" in differing(run.outcome(), whole[6][0])


def test_random_states_of_python_numpy_and_torch():
    state = _RandomState()
    saved = state.state_dict()
    draw = lambda: (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: E731, NPY002
    first = draw()
    draw()
    state.load_state_dict(saved)
    assert draw() == first


# --- files ---


PARTS = {"model", "optimizer", "lr_scheduler", "curves", "trainer", "sampler", "random", "best", "identity"}


def test_what_a_checkpoint_holds(tmp_path):
    finished(tmp_path)
    content = torch.load(newest(tmp_path), weights_only=True)
    assert set(content) == PARTS
    assert content["trainer"] == {"iteration": 18, "epoch_length": 6, "max_epochs": 3}
    assert content["sampler"] == {"num_items": 5, "seed": 0, "num_ranks": 1}


@pytest.mark.parametrize("num_kept", [1, 3])
def test_the_newest_are_kept(tmp_path, num_kept):
    finished(tmp_path, num_kept=num_kept)
    assert names(tmp_path) == [f"checkpoint_{n:09d}.pt" for n in (14, 16, 18)[-num_kept:]]


@pytest.mark.parametrize(("interval", "iterations"), [(1, [2, 4, 6, 8, 10, 12]), (2, [4, 6, 10, 12]), (9, [6, 12])])
def test_written_after_optimizer_steps_and_epochs(tmp_path, interval, iterations):
    finished(tmp_path, interval=interval, epochs=2, num_kept=100)
    assert names(tmp_path) == [f"checkpoint_{n:09d}.pt" for n in iterations]


def test_nothing_to_resume(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run = resumed(tmp_path)
    assert f"nothing to resume in {tmp_path / 'checkpoints'}: starting from the beginning" in caplog.text
    assert run.trainer.state.iteration == LAST


def test_a_resumed_run_says_so(tmp_path, caplog):
    stopped(tmp_path, after_iteration(9))
    with caplog.at_level(logging.INFO):
        resumed(tmp_path)
    assert "checkpoint_000000008.pt at iteration 8" in caplog.text


def test_a_new_run_does_not_write_among_old_checkpoints(tmp_path):
    finished(tmp_path)
    before = names(tmp_path)
    run = make_run(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"checkpoints holds checkpoints of an earlier run, the newest is checkpoint_000000018\.pt\. Resume it, "
        "move it away, or choose another `output_dir`",
    ):
        run.trainer.run()
    assert names(tmp_path) == before


@pytest.mark.parametrize("size", [0, 10, 0.5, 0.99])
def test_a_torn_checkpoint_names_itself_and_the_one_to_fall_back_to(tmp_path, size):
    stopped(tmp_path, after_iteration(9))
    data = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(data[: size if isinstance(size, int) else int(len(data) * size)])
    with pytest.raises(
        ValueError,
        match=r"checkpoint_000000008\.pt cannot be read.* Delete it to continue from checkpoint_000000006\.pt",
    ):
        resumed(tmp_path)
    newest(tmp_path).unlink()
    assert resumed(tmp_path).trainer.state.iteration == LAST


def test_the_only_checkpoint_is_torn(tmp_path):
    stopped(tmp_path, after_iteration(3))
    newest(tmp_path).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"000002\.pt cannot be read.* Delete it to start from the beginning\."):
        resumed(tmp_path)


# --- what does not fit ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"epoch_length": 8},
            "An epoch has 8 iterations, in the checkpoint 6. Resume with the same steps per epoch and accumulation.",
        ),
        ({"seed": 1}, r"stream differs from the checkpoint's: seed 0 -> 1\. Resume with the same datalist, seed and"),
        ({"num_items": 6}, r"stream differs from the checkpoint's: num_items 5 -> 6\. Resume with the same datalist"),
        (
            {"hidden": 7},
            r"000000008\.pt does not fit this run's model: Error\(s\) in loading state_dict for Sequential: size "
            r"mismatch for 0\.weight: .* Resume with the configuration it was written by\.",
        ),
    ],
)
def test_another_run_is_refused(tmp_path, arguments, message):
    stopped(tmp_path, after_iteration(9))
    with pytest.raises(ValueError, match=message):
        resumed(tmp_path, **arguments)


def test_another_optimizer_is_refused(tmp_path):
    stopped(tmp_path, after_iteration(9))
    run = make_run(tmp_path, resume=True)
    run.trainer.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(
        ValueError,
        match="does not fit this run's optimizer: loaded state dict has a different number of parameter groups "
        "Resume with the configuration",
    ):
        run.trainer.run()


def test_a_missing_part_is_named(tmp_path):
    stopped(tmp_path, after_iteration(9))
    content = torch.load(newest(tmp_path), weights_only=True)
    del content["optimizer"], content["best"]
    torch.save(content, newest(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"000000008\.pt lacks best, optimizer\. It was written by another configuration; resume with the one it",
    ):
        resumed(tmp_path)


def test_a_part_of_another_kind_is_refused(tmp_path):
    stopped(tmp_path, after_iteration(9))
    content = torch.load(newest(tmp_path), weights_only=True)
    content["curves"] = {"rows": []}
    torch.save(content, newest(tmp_path))
    with pytest.raises(ValueError, match="does not fit this run's curves: the state of CurvesHandler must have 'rows'"):
        resumed(tmp_path)


def test_a_position_of_another_kind_is_refused(tmp_path):
    stopped(tmp_path, after_iteration(9))
    content = torch.load(newest(tmp_path), weights_only=True)
    del content["trainer"]["max_epochs"]
    torch.save(content, newest(tmp_path))
    with pytest.raises(ValueError, match="does not fit this run's trainer: 'max_epochs' Resume with the configuration"):
        resumed(tmp_path)


def test_a_complete_run_has_nothing_left_to_do(tmp_path, caplog):
    expected = finished(tmp_path).outcome()
    with caplog.at_level(logging.WARNING):
        run = resumed(tmp_path)
    assert "the run is complete, 3 of 3 epochs: nothing is left to do" in caplog.text
    assert same(run.outcome()["model"], expected["model"])
    assert run.outcome()["position"] == (3, 18)


def test_more_epochs_than_planned_keep_the_schedule_and_say_so(tmp_path, caplog):
    finished(tmp_path)
    with caplog.at_level(logging.WARNING):
        run = resumed(tmp_path, epochs=4)
    assert "planned for 3 epochs and now has 4: the learning rate keeps the checkpoint's schedule" in caplog.text
    assert run.trainer.state.iteration == 24


def test_another_run_is_refused_and_every_difference_named(tmp_path):
    make_run(tmp_path, identity={"data": "abc", "lr": 0.1, "loss": {"eps": 1e-8}}).trainer.run()
    other = make_run(tmp_path, identity={"data": "abd", "lr": 0.1, "loss": {"eps": 0.1}, "amp": True}, resume=True)
    with pytest.raises(ValueError, match="The run differs from the checkpoint's") as caught:
        other.trainer.run()
    assert 'amp absent -> true; data "abc" -> "abd"; loss::eps 1e-08 -> 0.1.' in str(caught.value)
    same = make_run(tmp_path, identity={"data": "abc", "lr": 0.1, "loss": {"eps": 1e-8}}, resume=True)
    same.trainer.run()
    assert same.trainer.state.epoch == 3


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    finished(tmp_path)
    torn = tmp_path / "checkpoints" / ".checkpoint_000000099.pt.123.tmp"
    torn.write_bytes(b"half")
    resumed(tmp_path)
    assert not torn.exists()


@pytest.mark.parametrize("name", ["batch_size", "interval", "num_kept"])
def test_numbers_must_be_positive(tmp_path, name):
    arguments = {"batch_size": 1, name: 0}
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        ResumeHandler(tmp_path, {}, None, **arguments)
