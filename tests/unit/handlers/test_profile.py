"""A profile of a real, small run, which goes on as if there had been none."""

import gzip
import json
import logging
from unittest import mock

import pytest
import torch
from ignite.engine import Engine, Events
from torch.profiler import ProfilerActivity, profile

from bertswin_ext.engines import ConductedTrainer
from bertswin_ext.handlers.profile import ProfileHandler
from bertswin_ext.losses import SubpatchStructureLoss
from bertswin_ext.networks import BertsWinMAE
from bertswin_ext.optimizers import GradientConductor, LionLARS
from tests.unit.handlers.small_run import StoppedError, after_iteration, make_run, same

FAST = {"wait": 2, "active": 2, "warmup": 1, "traced": 1}


@pytest.fixture(autouse=True)
def quick_products(monkeypatch):
    """Large products take their time, and are not what is tested here."""
    monkeypatch.setattr("bertswin_ext.handlers.profiling.product_speed._SIZES", {"cpu": 8})


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="profile_test")
    return lambda: [record for record in caplog.records if record.name == "profile_test"]


def profiled(folder, plan=FAST, **arguments):
    """A run of three epochs with six iterations, two to a step, with its profile."""
    run = make_run(folder, **arguments)
    handler = ProfileHandler(folder / "profile", name="profile_test", **plan)
    handler.attach(run.trainer)
    return run, handler


def page_of(folder):
    return (folder / "profile" / "summary.md").read_text()


def events_of(folder):
    with gzip.open(folder / "profile" / "trace.json.gz", "rt") as file:
        return json.load(file)["traceEvents"]


def test_page_and_trace(tmp_path, log):
    run, handler = profiled(tmp_path)
    run.trainer.run()
    assert handler.is_done
    page = page_of(tmp_path)
    assert page.startswith("# Where the time of training goes\n")
    assert "Means of iterations 3 to 4, each with 2 samples" in page
    assert "2 iterations make a step." in page
    assert "From the trace of iteration 6;" in page
    assert "`aten::" in page
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["summary.md", "trace.json.gz"]
    messages = [record.getMessage() for record in log()]
    path = tmp_path / "profile" / "summary.md"
    assert messages[0] == f"profile: iterations 3 to 6 are measured, then {path} is written"
    assert messages[1].startswith("profile: ")
    assert messages[1].endswith(f"; more in {path}")
    assert len(messages) == 2


def test_the_trace_has_every_part_of_its_iterations_and_no_validation(tmp_path):
    """Iterations 5 and 6 only warm the profiler up; after the validation behind them it begins again."""
    run, _ = profiled(tmp_path, {**FAST, "warmup": 3, "traced": 3})
    run.trainer.run()
    assert "From the trace of iterations 10 to 12;" in page_of(tmp_path)
    events = events_of(tmp_path)
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert [ranges.count(name) for name in ("waiting for data", "preparing the batch", "loss", "the rest")] == [
        3,
        3,
        3,
        6,
    ]
    assert [event["name"] for event in events].count("aten::linear") == 3 * 2


def test_the_run_is_bit_for_bit_that_without_a_profile(tmp_path):
    plain = make_run(tmp_path / "plain")
    plain.trainer.run()
    run, handler = profiled(tmp_path / "profiled")
    run.trainer.run()
    assert handler.is_done
    assert same(run.outcome(), plain.outcome())


def train_autoencoder(folder=None):
    """Eight iterations of pre-training, with a conductor and bfloat16."""
    torch.manual_seed(0)
    network = BertsWinMAE(
        img_size=16, patch_size=8, hidden_size=24, num_layers=1, num_heads=2, window_size=2, decoder_hidden_size=16
    )
    loss = SubpatchStructureLoss(patch_size=8, subpatch_size=4, reduction="samples")
    trainer = ConductedTrainer(
        conductor=GradientConductor(network, loss.loss_weights),
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=list(torch.randn(8, 2, 1, 16, 16, 16)),
        network=network,
        optimizer=LionLARS(network.parameters(), lr=1e-3),
        loss_function=loss.terms,
        prepare_batch=lambda batch, device, non_blocking, **kwargs: (batch, {"image": batch}),
        decollate=False,
        amp=True,
        amp_kwargs={"dtype": torch.bfloat16},
    )
    if folder is not None:
        ProfileHandler(folder / "profile", **FAST).attach(trainer)
    trainer.run()
    return network.state_dict(), trainer.optimizer.state_dict(), trainer.conductor.state_dict(), torch.get_rng_state()


def test_pre_training_is_bit_for_bit_that_without_a_profile(tmp_path):
    assert same(train_autoencoder(tmp_path), train_autoencoder())
    page = page_of(tmp_path)
    assert "BertsWinMAE" in page
    assert "bfloat16." in page
    assert "FLOP per iteration" in page


@pytest.mark.parametrize("iteration", [3, 9])
def test_a_run_that_was_stopped_anywhere_is_resumed_with_a_profile(tmp_path, iteration):
    plain = make_run(tmp_path / "plain")
    plain.trainer.run()
    stopped, _ = profiled(tmp_path, stop=after_iteration(iteration))
    with pytest.raises(StoppedError):
        stopped.trainer.run()
    run, handler = profiled(tmp_path, resume=True)
    run.trainer.run()
    assert same(run.outcome(), plain.outcome())
    assert handler.is_done
    assert "Means of iterations" in page_of(tmp_path)


@pytest.mark.parametrize("iteration", [2, 3, 5, 6])
def test_an_error_is_raised_and_leaves_nothing_behind(tmp_path, iteration):
    run, handler = profiled(tmp_path, stop=after_iteration(iteration))
    with pytest.raises(StoppedError, match=f"stopped at iteration {iteration}"):
        run.trainer.run()
    assert handler.is_done
    assert not (tmp_path / "profile").exists()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    with profile(activities=[ProfilerActivity.CPU]) as other:  # refused while there is another
        torch.ones(2) + 1
    assert [event.key for event in other.key_averages()].count("aten::add") == 1


def test_an_error_in_the_network_while_operations_are_counted(tmp_path):
    run, _ = profiled(tmp_path)
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=2), lambda engine: setattr(engine, "network", torch.nn.Linear(1, 1))
    )
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run.trainer.run()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_handlers_behind_it_see_the_error(tmp_path):
    run, _ = profiled(tmp_path, stop=after_iteration(4))
    seen = []
    run.trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: seen.append(str(error)))
    with pytest.raises(StoppedError):
        run.trainer.run()
    assert "stopped at iteration 4" in seen


def test_a_run_that_is_too_short_for_the_trace(tmp_path):
    run, _ = profiled(tmp_path, epochs=1, epoch_length=4)
    run.trainer.run()
    page = page_of(tmp_path)
    assert page.splitlines()[2] == "The run ended at iteration 4, before the profile was complete."
    assert "Means of iterations 3 to 4" in page
    assert not (tmp_path / "profile" / "trace.json.gz").exists()


def test_an_epoch_that_is_too_short_for_the_trace(tmp_path):
    run, _ = profiled(tmp_path, {**FAST, "traced": 9})
    run.trainer.run()
    page = page_of(tmp_path)
    assert page.splitlines()[2] == "The epoch ended before the trace was complete."
    assert "From the trace of iteration 6;" in page


def test_a_run_that_is_too_short_for_anything(tmp_path, log):
    run, handler = profiled(tmp_path, {**FAST, "wait": 10}, epochs=1)
    run.trainer.run()
    (warning,) = [record.getMessage() for record in log() if record.levelname == "WARNING"]
    assert warning.startswith("profile: nothing was measured. The run ended at iteration 6, before")
    assert "The first 10 iterations are left out: set more epochs or more steps per epoch." in warning
    assert not (tmp_path / "profile").exists()
    assert handler.is_done


def test_a_run_that_was_complete(tmp_path, log):
    make_run(tmp_path, epochs=1).trainer.run()
    profiled(tmp_path, epochs=1, resume=True)[0].trainer.run()
    (record,) = log()
    assert record.getMessage().startswith("profile: nothing was measured. The run ended at iteration 6, ")


def test_other_ranks_measure_and_write_nothing(tmp_path):
    run, _ = profiled(tmp_path, stop=None)
    with mock.patch("bertswin_ext.handlers.profile.idist.get_rank", return_value=1):
        run.trainer.run()
    assert not (tmp_path / "profile").exists()


def test_logger_of_the_engine_by_default(tmp_path):
    run = make_run(tmp_path)
    handler = ProfileHandler(tmp_path / "profile")
    handler.attach(run.trainer)
    assert handler.logger is run.trainer.logger


@pytest.mark.parametrize("name", ["active", "warmup", "traced"])
def test_bad_lengths(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got 0. Use 1 or more."):
        ProfileHandler(tmp_path, **{name: 0})


def test_bad_wait(tmp_path):
    with pytest.raises(ValueError, match=r"`wait` must be 0 or more iterations, got -1. 3 leaves out what is slow"):
        ProfileHandler(tmp_path, wait=-1)


def test_only_trainers(tmp_path):
    with pytest.raises(TypeError, match="Only a SupervisedTrainer can be profiled"):
        ProfileHandler(tmp_path).attach(Engine(lambda engine, batch: None))
