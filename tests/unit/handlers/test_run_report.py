import json
import logging
import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import StatsHandler, ValidationHandler

from bertswin_ext.handlers.run_report import RunReportHandler, json_sha256, to_json


def read(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def make_trainer():
    return Engine(lambda engine, batch: {"loss": torch.tensor(0.5)})


def test_content_of_a_completed_run(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="report")
    (tmp_path / "progress.png").touch()
    trainer, evaluator = make_trainer(), Engine(lambda engine, batch: None)
    evaluator.state.metrics = {"val_loss": torch.tensor(0.25), "per_class": np.ones(3), "bad": float("nan")}
    RunReportHandler(
        tmp_path / "run_report.json",
        config={"lr": 1e-4, "roi": (96, 96), "call": len},
        datalist={"training": [{"image": "a.nii"}] * 3, "validation": [{"image": "b.nii"}], "source": "datalist.json"},
        seeds={"global": 7},
        files={"curves": tmp_path / "progress.png", "pictures": "reconstructions/latest.png"},
        evaluator=evaluator,
        name="report",
    ).attach(trainer)
    trainer.run([0, 1], max_epochs=3)
    report = read(tmp_path / "run_report.json")
    assert report["status"] == "completed"
    assert report["error"] is None
    assert (report["epochs"], report["max_epochs"], report["iterations"]) == (3, 3, 6)
    assert report["last_loss"] == 0.5
    assert report["validation_metrics"] == {"val_loss": 0.25, "bad": None}
    assert report["best_metric"] is None
    assert report["config"] == {"lr": 1e-4, "roi": [96, 96], "call": "<built-in function len>"}
    assert report["config_sha256"] == json_sha256({"call": len, "roi": [96, 96], "lr": 1e-4})
    assert report["data"]["counts"] == {"training": 3, "validation": 1}
    assert report["data"]["source"] == "datalist.json"
    assert re.fullmatch("[0-9a-f]{64}", report["data"]["sha256"])
    assert report["seeds"] == {"global": 7}
    assert report["files"] == {"curves": "progress.png", "pictures": "reconstructions/latest.png"}
    assert set(report["versions"]) == {"bertswin_ext", "monai", "torch", "ignite", "numpy", "python"}
    assert report["system"]["device"] == "cpu"
    assert (report["system"]["ranks"], report["system"]["threads"]) == (1, torch.get_num_threads())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", report["started_utc"])
    assert report["finished_utc"] >= report["started_utc"]
    messages = [record.getMessage() for record in caplog.records if record.name == "report"]
    assert messages[0].startswith("run completed in 0:00, its files are in ")
    assert messages[1:] == [  # the picture does not exist
        f"  curves: {tmp_path / 'progress.png'}",
        f"  run report: {tmp_path / 'run_report.json'}",
    ]


def test_share_of_waiting_for_data(tmp_path, monkeypatch):
    """Of all epochs of the session so far, validation left out."""
    path, now, seen = tmp_path / "r.json", [0.0], []
    monkeypatch.setattr("bertswin_ext.handlers.waiting.time.monotonic", lambda: now[0])

    def pass_by(seconds):
        now[0] += seconds

    def load():
        for seconds in (50, 1, 1, 3, 3, 3):
            pass_by(seconds)
            yield seconds

    trainer, evaluator = Engine(lambda engine, batch: pass_by(1)), Engine(lambda engine, batch: pass_by(1000))
    RunReportHandler(path, evaluator=evaluator).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0]))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(read(path)["waiting_share"]))
    trainer.run(load(), max_epochs=2, epoch_length=3)
    assert seen == [0.5, round(11 / 16, 4)]
    assert read(path)["waiting_share"] == round(11 / 16, 4)


def test_status_while_running(tmp_path):
    path, seen = tmp_path / "out" / "run_report.json", []
    trainer = make_trainer()
    RunReportHandler(path).attach(trainer)
    for event in (Events.STARTED, Events.EPOCH_COMPLETED):
        trainer.add_event_handler(event, lambda engine: seen.append((read(path)["status"], read(path)["epochs"])))
    trainer.run([0], max_epochs=2)
    assert seen == [("running", 0), ("running", 1), ("running", 2)]
    assert [p.name for p in path.parent.iterdir()] == ["run_report.json"]


def test_resumed_run(tmp_path):
    trainer = make_trainer()
    RunReportHandler(tmp_path / "run_report.json").attach(trainer)
    trainer.load_state_dict({"iteration": 3, "max_epochs": 2, "epoch_length": 4})
    trainer.run(range(4))
    report = read(tmp_path / "run_report.json")
    assert (report["resumed_at_iteration"], report["iterations"]) == (3, 8)


EARLIER = {
    "status": "completed",
    "started_utc": "2026-01-31T12:00:00Z",
    "finished_utc": "2026-01-31T13:00:00Z",
    "wall_seconds": 3600.5,
    "waiting_share": 0.125,
    "last_loss": 0.75,
    "metrics": {"loss": 0.75},
    "validation_metrics": {"val_loss": 0.5},
    "best_metric": {"name": "val_loss", "value": 0.5, "epoch": 2},
}


def load_checkpoint(engine, iteration):
    """As ``ResumeHandler`` does it: when the run has started, after the first report."""
    engine.state.iteration = iteration
    engine.state.epoch = iteration // engine.state.epoch_length


def run_again(path, iteration, earlier=None, stop=None):
    """Run a trainer of 2 epochs with 4 iterations from an iteration on, with the report of an earlier session."""
    path.write_text(json.dumps(EARLIER) if earlier is None else earlier)
    trainer, evaluator, seen = make_trainer(), Engine(lambda engine, batch: None), []
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(val_loss=0.25))
    RunReportHandler(path, evaluator=evaluator, name="report").attach(trainer)
    trainer.add_event_handler(Events.STARTED, load_checkpoint, iteration)
    if stop is not None:
        trainer.add_event_handler(stop, fail)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(read(path)))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: evaluator.run([0]))
    trainer.run(range(4), max_epochs=2)
    return seen


def test_resuming_a_complete_run_changes_nothing_in_its_report(tmp_path):
    path = tmp_path / "r.json"
    run_again(path, 8)
    report = read(path)
    assert {key: report[key] for key in EARLIER if key != "wall_seconds"} == {
        key: value for key, value in EARLIER.items() if key != "wall_seconds"
    }
    assert 3600.5 <= report["wall_seconds"] < 3660
    assert (report["epochs"], report["iterations"]) == (2, 8)


def test_a_continued_run_adds_to_its_report(tmp_path):
    path = tmp_path / "r.json"
    (in_between,) = run_again(path, 6)
    assert in_between["validation_metrics"] == {"val_loss": 0.5}
    assert in_between["last_loss"] == 0.5
    report = read(path)
    assert report["started_utc"] == EARLIER["started_utc"]
    assert report["finished_utc"] > EARLIER["finished_utc"]
    assert 3600.5 <= report["wall_seconds"] < 3660
    assert report["validation_metrics"] == {"val_loss": 0.25}
    assert report["best_metric"] == EARLIER["best_metric"]


def test_a_resume_that_is_refused_keeps_what_the_run_has_reached(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(RuntimeError, match="out of luck"):
        run_again(path, 0, stop=Events.STARTED)
    report = read(path)
    assert (report["status"], report["error"]) == ("failed", "RuntimeError: out of luck")
    assert report["started_utc"] == EARLIER["started_utc"]
    assert report["last_loss"] == 0.75


def test_a_new_run_inherits_nothing(tmp_path):
    path = tmp_path / "r.json"
    run_again(path, 0)
    report = read(path)
    assert report["started_utc"] > EARLIER["started_utc"]
    assert report["wall_seconds"] < 60
    assert report["best_metric"] is None


@pytest.mark.parametrize("torn", ['{"status": "runn', "[]", "\x00"])
def test_a_torn_report_does_not_stop_a_run(tmp_path, caplog, torn):
    path = tmp_path / "r.json"
    run_again(path, 6, earlier=torn)
    assert read(path)["status"] == "completed"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"the report {path} of the earlier session cannot be read (")
    assert warnings[0].endswith("): times and metrics start anew.")


def test_a_report_of_another_version_gives_what_it_has(tmp_path):
    path = tmp_path / "r.json"
    run_again(path, 8, earlier='{"status": "completed", "started_utc": "2026-01-31T12:00:00Z", "last_loss": null}')
    report = read(path)
    assert report["started_utc"] == "2026-01-31T12:00:00Z"
    assert report["last_loss"] is None
    assert report["validation_metrics"] == {}


def fail(engine):
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("event", [Events.STARTED, Events.ITERATION_COMPLETED, Events.EPOCH_COMPLETED])
def test_failure_is_written_and_raised(tmp_path, event):
    trainer = make_trainer()
    trainer.add_event_handler(event, fail)
    RunReportHandler(tmp_path / "run_report.json").attach(trainer)
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.run([0], max_epochs=1)
    report = read(tmp_path / "run_report.json")
    assert (report["status"], report["error"]) == ("failed", "RuntimeError: out of luck")


def test_handlers_after_it_see_the_failure_too(tmp_path):
    trainer, seen = make_trainer(), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
    RunReportHandler(tmp_path / "run_report.json").attach(trainer)
    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: seen.append(str(error)))
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer.run([0], max_epochs=1)
    assert set(seen) == {"out of luck"}


def test_other_ranks_write_nothing_but_raise(tmp_path):
    trainer = make_trainer()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, fail)
    RunReportHandler(tmp_path / "run_report.json").attach(trainer)
    with mock.patch("ignite.distributed.get_rank", return_value=1), pytest.raises(RuntimeError, match="out of luck"):
        trainer.run([0], max_epochs=1)
    assert list(tmp_path.iterdir()) == []


class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, image):
        return {"reconstruction": image * self.weight, "masked": torch.ones(len(image), 1, dtype=torch.bool)}


def test_with_monai_engines(tmp_path):
    network, path = Constant(), tmp_path / "run_report.json"
    loader = torch.utils.data.DataLoader([{"image": torch.ones(1, 2, 2, 2), "label": torch.ones(1)}] * 2)
    metric = Average(output_transform=lambda output: output["pred"]["reconstruction"].mean())
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=loader, network=network, key_val_metric={"val_mean": metric}, decollate=False
    )
    report = RunReportHandler(path, evaluator=evaluator)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=lambda pred, target: pred["reconstruction"].mean(),
        train_handlers=[report, ValidationHandler(1, evaluator), StatsHandler(output_transform=lambda x: x["loss"])],
        decollate=False,
    )
    trainer.run()
    content = read(path)
    assert content["best_metric"] == {"name": "val_mean", "value": pytest.approx(0.8), "epoch": 1}
    assert content["validation_metrics"] == {"val_mean": pytest.approx(0.6)}
    assert content["status"] == "completed"
    trainer.state.max_epochs = 3
    trainer.loss_function = lambda pred, target: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert read(path)["error"] == "ZeroDivisionError: division by zero"


def test_to_json():
    class Thing:
        pass

    value = {
        "nan": np.float64("nan"),
        "inf": float("inf"),
        1: torch.tensor(2),
        "list": torch.ones(2),
        "path": Path("a/b"),
    }
    value |= {"large": np.zeros(100), "thing": Thing(), "yes": np.bool_(True)}
    plain = to_json(value)
    assert plain["nan"] is None
    assert plain["inf"] is None
    assert (plain["1"], plain["list"], plain["path"], plain["yes"]) == (2, [1.0, 1.0], "a/b", True)
    assert plain["large"] == "ndarray of shape (100,)"
    assert "0x" not in plain["thing"]
    json.dumps(plain, allow_nan=False)


def test_hash_does_not_depend_on_order_or_addresses():
    assert json_sha256({"a": lambda: 0, "b": (1, 2)}) == json_sha256({"b": [1, 2], "a": lambda: 0})
    assert json_sha256({"a": 1}) != json_sha256({"a": 2})


def test_given_counts_and_hash(tmp_path):
    trainer = make_trainer()
    RunReportHandler(tmp_path / "r.json", datalist={"training": 12, "sha256": "abc"}).attach(trainer)
    trainer.run([0], max_epochs=1)
    assert read(tmp_path / "r.json")["data"] == {"counts": {"training": 12}, "sha256": "abc", "source": None}


@pytest.mark.parametrize("name", ["config", "datalist", "files"])
def test_bad_arguments(tmp_path, name):
    with pytest.raises(TypeError, match=f"`{name}` must be a mapping or None, got list. Pass a dictionary."):
        RunReportHandler(tmp_path / "r.json", **{name: []})
