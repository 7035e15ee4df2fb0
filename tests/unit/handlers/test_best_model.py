"""The best weights stay the best, and patience ends a run."""

import logging

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from bertswin_ext.handlers.best_model import BestModelHandler, PatienceHandler
from bertswin_ext.networks import AdaptationRecord, add_lora, bertswin_segmenter_tiny, lora_state_dict
from bertswin_ext.networks.lora import has_lora
from tests.unit.handlers.small_run import StoppedError, make_run, same


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Pictures are tested elsewhere."""
    monkeypatch.setattr("bertswin_ext.handlers.curves.save_png", lambda figure, path: None)


def scored(run, scores):
    """Let the validations of a run find the scores given for its epochs."""

    def score(engine):
        engine.state.metrics["val_loss"] = scores[engine.state.epoch - 1]

    run.evaluator.add_event_handler(Events.EPOCH_COMPLETED, score)
    handlers = run.evaluator._event_handlers[Events.EPOCH_COMPLETED]
    # after the metric is computed, before it is compared
    at = next(n for n, entry in enumerate(handlers) if "_compare_metrics" in entry[0].__qualname__)
    handlers.insert(at, handlers.pop())
    return run


def weights_of_epochs(run, found):
    """Note the weights at the end of every epoch."""
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda engine: found.update(
            {engine.state.epoch: {name: value.clone() for name, value in engine.network.state_dict().items()}}
        ),
    )


def read(folder):
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.parametrize(("scores", "best"), [([3.0, 1.0, 2.0], 2), ([1.0, 2.0, 3.0], 1), ([3.0, 2.0, 1.0], 3)])
def test_the_best_weights_are_kept(tmp_path, scores, best):
    run, found = scored(make_run(tmp_path), scores), {}
    weights_of_epochs(run, found)
    run.trainer.run()
    assert same(dict(read(tmp_path)), found[best])
    assert run.evaluator.state.best_metric_epoch == best


def test_a_resumed_run_only_overwrites_by_something_better(tmp_path):
    found = {}
    run = scored(make_run(tmp_path, stop=Events.EPOCH_STARTED(once=2)), [1.0])
    weights_of_epochs(run, found)
    with pytest.raises(StoppedError, match="iteration 6"):
        run.trainer.run()
    run = scored(make_run(tmp_path, resume=True, epochs=4, init=9), [None, 2.0, 1.5, 0.5])
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED(event_filter=lambda engine, epoch: epoch < 4),
        lambda engine: found.setdefault("kept", []).append(same(dict(read(tmp_path)), found[1])),
    )
    weights_of_epochs(run, found)
    run.trainer.run()
    assert found["kept"] == [True, True]
    assert same(dict(read(tmp_path)), found[4])


def test_a_network_of_several_processes_is_saved_without_its_wrapper(tmp_path, monkeypatch):
    class Parallel(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setattr("bertswin_ext.handlers.best_model.DistributedDataParallel", Parallel)
    network = nn.Linear(2, 2)
    assert BestModelHandler(tmp_path / "model.pt", Parallel(network)).network is network


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    scored(make_run(tmp_path), [3.0, 2.0, 1.0]).trainer.run()
    assert not (tmp_path / "model.pt").exists()


# --- patience ---


@pytest.mark.parametrize(
    ("scores", "patience", "last"),
    [
        ([1.0, 2.0, 2.0, 2.0, 2.0], 1, 2),
        ([1.0, 2.0, 2.0, 2.0, 2.0], 2, 3),
        ([3.0, 3.0, 2.0, 3.0, 3.0], 2, 5),
        ([5.0, 4.0, 3.0, 2.0, 1.0], 1, 5),
    ],
)
def test_patience_ends_the_run(tmp_path, caplog, scores, patience, last):
    run = scored(make_run(tmp_path, epochs=5, patience=patience), scores)
    with caplog.at_level(logging.INFO):
        run.trainer.run()
    assert run.trainer.state.epoch == last
    best = run.evaluator.state.best_metric_epoch
    assert (f"no improvement since epoch {best}, validated in epoch {last}: stopping" in caplog.text) == (
        last - best >= patience
    )


@pytest.mark.parametrize("stop", [Events.EPOCH_STARTED(once=2), Events.EPOCH_STARTED(once=3)])
def test_patience_counts_across_a_resume(tmp_path, stop):
    scores = [1.0, 2.0, 2.0, 2.0, 2.0]
    with pytest.raises(StoppedError, match="stopped"):
        scored(make_run(tmp_path, epochs=5, patience=3, stop=stop), scores).trainer.run()
    run = scored(make_run(tmp_path, epochs=5, patience=3, resume=True, init=9), scores)
    run.trainer.run()
    assert run.trainer.state.epoch == 4


def test_a_run_that_patience_has_ended_stays_ended(tmp_path):
    scores = [1.0, 2.0, 2.0, 0.0, 0.0]
    first = scored(make_run(tmp_path, epochs=5, patience=2), scores)
    first.trainer.run()
    table = (tmp_path / "metrics.csv").read_text()
    run = scored(make_run(tmp_path, epochs=5, patience=2, resume=True, init=9), scores)
    run.trainer.run()
    assert (run.trainer.state.epoch, run.trainer.state.iteration) == (3, 18)
    assert same(run.trainer.network.state_dict(), first.trainer.network.state_dict())
    assert (tmp_path / "metrics.csv").read_text() == table
    run = scored(make_run(tmp_path, epochs=5, patience=4, resume=True), scores)
    run.trainer.run()
    assert run.trainer.state.epoch == 5


def test_no_validation_yet_is_no_reason_to_stop():
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric_epoch = -1
    trainer = Engine(lambda engine, batch: None)
    PatienceHandler(evaluator, 1).attach(trainer)
    trainer.run([0], max_epochs=3)
    assert trainer.state.epoch == 3


def test_patience_must_be_positive():
    with pytest.raises(ValueError, match="`patience` must be at least 1 epoch, got 0"):
        PatienceHandler(Engine(lambda engine, batch: None), 0)


def test_patience_judges_only_what_was_validated(tmp_path):
    run = scored(make_run(tmp_path, epochs=6, patience=1, val_interval=3), [9.0, 9.0, 2.0, 9.0, 9.0, 1.0])
    run.trainer.run()
    assert run.trainer.state.epoch == 6


# --- what the file holds ---


def test_a_record_comes_along(tmp_path):
    network = nn.Linear(2, 3)
    record = AdaptationRecord.of(network, 0.8, ["background", "bone"])
    evaluated_once(BestModelHandler(tmp_path / "model.pt", network, record))
    content = read(tmp_path)
    assert content["record"] == record.to_plain()
    assert same(content["model"], dict(network.state_dict()))


def test_adapters_are_merged_and_kept_beside(tmp_path):
    network = bertswin_segmenter_tiny(img_size=16, patch_size=8, window_size=2)
    names = set(network.state_dict())
    add_lora(network, rank=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    evaluated_once(BestModelHandler(tmp_path / "model.pt", network, adapters_path=tmp_path / "adapters.pt"))
    content = read(tmp_path)
    assert set(content) == names
    layer = network.encoder.blocks[0].attn.qkv
    torch.testing.assert_close(content["encoder.blocks.0.attn.qkv.weight"], layer.weight.detach())
    assert has_lora(network)
    assert same(torch.load(tmp_path / "adapters.pt", weights_only=True), lora_state_dict(network))


def test_a_trainer_saves_its_last_weights(tmp_path):
    """It has no key metric, so there is no best."""
    network = nn.Linear(2, 3)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=[{"image": torch.ones(1, 2), "label": torch.ones(1, 3)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=nn.MSELoss(),
        train_handlers=[BestModelHandler(tmp_path / "model.pt", network)],
        decollate=False,
    )
    trainer.run()
    assert same(read(tmp_path), dict(network.state_dict()))


def evaluated_once(handler):
    """What the handler does after a validation that was the best."""
    engine = Engine(lambda engine, batch: None)
    engine.state.key_metric_name, engine.state.best_metric_epoch = "val_mean_dice", 1
    handler.attach(engine)
    engine.run([0])
