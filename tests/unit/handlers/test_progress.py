import io
import logging
import re
import sys
from unittest import mock

import pytest
import torch
from ignite.engine import Engine

from bertswin_ext.handlers.progress import ProgressHandler, _Pace, format_duration


def make_optimizer(lr=1.5e-4):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def make_trainer():
    return Engine(lambda engine, batch: {"loss": torch.tensor(float(batch))})


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="progress_test")
    return lambda: [record for record in caplog.records if record.name == "progress_test"]


def run(log, length=6, epochs=2, state=None, **kwargs):
    trainer = make_trainer()
    ProgressHandler(make_optimizer(), name="progress_test", **kwargs).attach(trainer)
    if state:
        trainer.load_state_dict(state)
        trainer.run(range(length))
    else:
        trainer.run(range(length), max_epochs=epochs)
    return [record.getMessage() for record in log()]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_without_a_terminal(log):
    lines = [line for line in run(log, log_interval=2) if "estimate" not in line]
    pattern = r"epoch (\d)/2 iteration (\d)/6 loss (\S+) lr 1.5e-04 \S+ \S+, epoch ends in \S+, run ends in \S+"
    assert [re.fullmatch(pattern, line).groups() for line in lines if "iteration" in line] == [
        ("1", "2", "1.0000"),
        ("1", "4", "3.0000"),
        ("2", "2", "1.0000"),
        ("2", "4", "3.0000"),
    ]
    ends = [line for line in lines if "completed" in line]
    assert len(ends) == 2
    assert ends[0].startswith("epoch 1/2 completed in 0:00, mean loss 2.5000 lr 1.5e-04")


def test_estimate_comes_once_after_four_iterations_and_the_hint_follows(log):
    lines = run(log, log_interval=1, hint="no GPU found: use demo.json")
    found = [index for index, line in enumerate(lines) if line.startswith("first estimate: ")]
    assert found == [3]
    assert lines[4] == "no GPU found: use demo.json"
    assert [record.levelname for record in log()].count("WARNING") == 1
    assert re.search(r"s per iteration, \S+ per epoch, \S+ to the end of the run", lines[3])


def test_estimate_of_a_run_shorter_than_the_warm_up(log):
    assert sum("first estimate" in line for line in run(log, length=1, epochs=2)) == 1


class SlowLoader:
    """Batches that take their time, on a clock of its own."""

    num_workers = 3

    def __init__(self, seconds):
        self.seconds = seconds
        self.now = 0.0

    def __iter__(self):
        for batch in range(10):
            self.now += self.seconds
            yield batch


def run_slow(log, monkeypatch, seconds, loader=None, **kwargs):
    """Two epochs of five iterations, each of which takes a second besides the loading."""
    loader = SlowLoader(seconds) if loader is None else loader
    monkeypatch.setattr("bertswin_ext.handlers.waiting.time.monotonic", lambda: loader.now)

    def step(engine, batch):
        loader.now += 1
        return {"loss": torch.tensor(0.0)}

    trainer = Engine(step)
    ProgressHandler(make_optimizer(), name="progress_test", log_interval=100, **kwargs).attach(trainer)
    trainer.run(loader, max_epochs=2, epoch_length=5)
    return [(record.levelname, record.getMessage()) for record in log()]


def test_line_of_an_epoch_says_how_much_of_it_was_waiting(log, monkeypatch):
    lines = [text for _, text in run_slow(log, monkeypatch, 0.25) if "completed" in text]
    assert [re.search(r"it, (waiting for data .*?), run ends in", line).group(1) for line in lines] == [
        "waiting for data 20 %",
        "waiting for data 20 %",
    ]


def test_too_much_waiting_is_said_once_with_what_to_do(log, monkeypatch):
    warnings = [text for level, text in run_slow(log, monkeypatch, 3.0) if level == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith("epoch 1 waited for data for 75 % of its time, more than 20 %, ")
    assert "`num_workers` (now 3)" in warnings[0]
    assert "`cache_rate`" in warnings[0]
    assert "docs/how-to/profile.md" in warnings[0]


@pytest.mark.parametrize(("limit", "count"), [(0.74, 1), (0.76, 0), (1, 0)])
def test_how_much_waiting_is_too_much(log, monkeypatch, limit, count):
    lines = run_slow(log, monkeypatch, 3.0, waiting_limit=limit)
    assert [level for level, _ in lines].count("WARNING") == count


def test_loader_that_does_not_say_its_workers(log, monkeypatch):
    class Plain(SlowLoader):
        num_workers = property()

    (warning,) = [text for level, text in run_slow(log, monkeypatch, 3, Plain(3.0)) if level == "WARNING"]
    assert "`num_workers`, up to the number of cores" in warning


def test_resume_in_mid_epoch(log):
    state = {"iteration": 8, "max_epochs": 2, "epoch_length": 6}
    lines = [line for line in run(log, log_interval=1, state=state) if "estimate" not in line]
    assert [line.split(" loss")[0] for line in lines] == [
        "epoch 2/2 iteration 3/6",
        "epoch 2/2 iteration 4/6",
        "epoch 2/2 iteration 5/6",
        "epoch 2/2 completed in 0:00, mean",
    ]


def test_unknown_epoch_length_and_no_loss(log):
    trainer = Engine(lambda engine, batch: None)
    ProgressHandler(make_optimizer(), name="progress_test", log_interval=1).attach(trainer)
    trainer.run(iter(range(5)), max_epochs=1)
    lines = [record.getMessage() for record in log()]
    assert lines[0].startswith("epoch 1/1 iteration 1 loss ? ")
    assert lines[0].endswith("epoch ends in ?, run ends in ?")
    assert lines[-1].startswith("epoch 1/1 completed")


def test_bar_on_a_terminal(log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    lines = run(log, log_interval=1, state={"iteration": 8, "max_epochs": 2, "epoch_length": 6})
    assert "epoch 2/2" in terminal.getvalue()
    assert "2/6" in terminal.getvalue()  # the bar starts where the epoch stands
    assert "loss 0.0000 lr 1.5e-04, run ends in" in terminal.getvalue()
    assert [line.split(":")[0].split(",")[0] for line in lines] == ["first estimate", "epoch 2/2 completed in 0"]


def test_silent_on_other_ranks(log, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with mock.patch("ignite.distributed.get_rank", return_value=1):
        assert run(log, log_interval=1, hint="hint") == []
    assert terminal.getvalue() == ""


def test_engine_logger_by_default():
    trainer = make_trainer()
    handler = ProgressHandler(make_optimizer())
    handler.attach(trainer)
    assert handler.logger is trainer.logger


def test_random_state_is_untouched(log):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    run(log)
    assert torch.equal(torch.rand(1), expected)


def test_pace_leaves_out_the_first_iteration_and_counts_pauses():
    pace = _Pace()
    pace.epoch_started(0.0)
    pace.iteration_completed(10.0)
    assert pace.iteration_seconds == 10.0
    pace.iteration_completed(12.0)
    pace.epoch_started(17.0)
    pace.iteration_completed(21.0)
    assert (pace.iteration_seconds, pace.pause_seconds) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0:00"),
        (65, "1:05"),
        (18450, "5:07:30"),
        (172799, "47:59:59"),
        (172800, "2.0 days"),
        (4.2e8, "13.3 years"),
        (None, "?"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got Linear. Pass the optimizer"):
        ProgressHandler(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"`log_interval` must be at least 1 iteration, got 0. Use 1"):
        ProgressHandler(make_optimizer(), log_interval=0)
    for limit in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"`waiting_limit` must be a share in \(0, 1\], got {limit}. 0.2 warns"):
            ProgressHandler(make_optimizer(), waiting_limit=limit)
