"""The table of stem tuning, and the end of the run at its target."""

import json
from dataclasses import dataclass

import pytest
import torch
from ignite.engine import Events
from ignite.metrics import Loss
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from bertswin_ext.handlers.best_model import BestModelHandler
from bertswin_ext.handlers.stem_report import StemReportHandler
from bertswin_ext.losses import MaskedL2Loss
from bertswin_ext.losses.agreement import AgreementLoss
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.stem_tuning import StemTuner

MEASURES = {"l2": MaskedL2Loss(8, reduction="samples"), "token_error": AgreementLoss("tokens")}


@dataclass
class Run:
    trainer: SupervisedTrainer
    evaluator: SupervisedEvaluator
    tuner: StemTuner
    report: StemReportHandler


def take_apart(batch, device, non_blocking, **kwargs):
    target = {"image": batch["image"], "valid": batch["valid"]}
    return batch["image"], target, (), {"valid": batch["valid"]}


def batches(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    valid = torch.ones(max(sizes), 8, dtype=torch.bool)
    valid[:, 0] = False
    return [{"image": torch.randn(n, 1, 16, 16, 16, generator=generator), "valid": valid[:n]} for n in sizes]


def metric(name):
    return Loss(MEASURES[name], lambda output: (output["pred"], output["label"]), lambda target: len(target["image"]))


@pytest.fixture
def make_run(tmp_path):
    torch.manual_seed(0)
    sizes = {"patch_size": 8, "hidden_size": 12, "num_layers": 1, "num_heads": 2, "window_size": 2, "stem_channels": 4}
    network = BertsWinMAE(16, decoder_hidden_size=8, **sizes)
    torch.save(network.state_dict(), tmp_path / "pretrained.pt")

    def make(lr=0.01, epochs=3, **options):
        tuner = StemTuner(BertsWinMAE(16, decoder_hidden_size=8, **sizes), tmp_path / "pretrained.pt")
        evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=batches(1, (2, 1)),
            network=tuner,
            prepare_batch=take_apart,
            key_val_metric={"val_mean_token_error": metric("token_error")},
            additional_metrics={"val_mean_l2": metric("l2")},
            metric_cmp_fn=lambda current, best: current < best,
            val_handlers=[BestModelHandler(tmp_path / "model.pt", tuner.tuned)],
            decollate=False,
        )
        paths = {"model_path": tmp_path / "model.pt", "path": tmp_path / "stem.json"}
        report = StemReportHandler(tuner, evaluator, options.pop("measures", MEASURES), **paths, **options)
        trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=batches(2, (2, 2)),
            network=tuner,
            optimizer=torch.optim.SGD(tuner.tuned.stem.parameters(), lr=lr),
            loss_function=AgreementLoss("tokens"),
            prepare_batch=take_apart,
            train_handlers=[report, ValidationHandler(1, evaluator)],
            decollate=False,
        )
        return Run(trainer, evaluator, tuner, report)

    return make


def measured(tuner, route):
    """The same figures, volume by volume."""
    found = {name: [] for name in MEASURES}
    for batch in batches(1, (2, 1)):
        with torch.no_grad():
            output = tuner.eval().outputs(batch["image"], batch["valid"], route)
        for n in range(len(batch["image"])):
            one = {name: value[n : n + 1] for name, value in output.items()}
            target = {name: value[n : n + 1] for name, value in batch.items()}
            for name, measure in MEASURES.items():
                found[name].append(measure(one, target).item())
    return {name: pytest.approx(sum(values) / 3, rel=1e-4) for name, values in found.items()}


def test_the_table(make_run, tmp_path):
    run = make_run()
    expected = {name: measured(run.tuner, route) for name, route in (("per_patch", "per_patch"), ("untuned",) * 2)}
    expected["before"] = measured(run.tuner, "tuned")
    run.trainer.run()
    table = json.loads((tmp_path / "stem.json").read_text())
    expected["tuned"] = measured(run.tuner, "tuned")
    assert table["values"] == expected
    assert table["values"]["tuned"] != table["values"]["before"]
    assert table["target"] == table["values"]["per_patch"]["l2"]
    assert (table["stem"], table["objective"], table["epochs"]) == ("non_overlapping", "tokens", 3)
    assert run.trainer.state.metrics["per_patch_l2"] == table["target"]
    assert run.trainer.state.metrics["tuned_token_error"] == table["values"]["tuned"]["token_error"]


def test_what_is_reported_are_the_best_weights_not_the_last(make_run, tmp_path):
    run = make_run(epochs=2)

    @run.trainer.on(Events.EPOCH_STARTED(once=2))
    def spoil(engine):
        torch.nn.init.normal_(run.tuner.tuned.stem.projection.weight, std=9.0)

    run.trainer.run()
    table = json.loads((tmp_path / "stem.json").read_text())
    assert table["best_epoch"] == 1
    assert table["values"]["tuned"]["token_error"] < 2 < run.evaluator.state.metrics["val_mean_token_error"]


def test_the_metrics_of_a_validation_are_those_of_the_table(make_run):
    run = make_run(epochs=1)
    run.trainer.run()
    for name in MEASURES:
        assert run.evaluator.state.metrics[f"val_mean_{name}"] == pytest.approx(
            run.report.values["tuned"][name], rel=1e-4
        )


@pytest.mark.parametrize(("stop", "target", "epochs"), [(True, 1e9, 1), (True, 0.0, 3), (False, 1e9, 3)])
def test_the_run_ends_at_the_target_where_it_should(make_run, tmp_path, stop, target, epochs):
    run = make_run(stop_at_target=stop)

    @run.trainer.on(Events.EPOCH_STARTED(once=1))
    def move(engine):
        run.report.values["per_patch"]["l2"] = target

    run.trainer.run()
    assert run.trainer.state.epoch == epochs
    assert json.loads((tmp_path / "stem.json").read_text())["reached"] is (target > 1)


@pytest.mark.parametrize(("done", "epochs"), [(2, 1), (3, 3)])
def test_a_run_that_had_ended_trains_no_more_when_resumed(make_run, tmp_path, done, epochs):
    """Two iterations are an epoch; after three the run had not ended when it was stopped."""
    run = make_run(stop_at_target=True)
    torch.save(run.tuner.tuned.state_dict(), tmp_path / "model.pt")

    @run.trainer.on(Events.STARTED)
    def resume(engine):
        engine.state.iteration, engine.state.epoch = done, done // 2
        run.report.values["per_patch"]["l2"] = 1e9 if done == 2 else 0.0

    run.trainer.run()
    assert run.trainer.state.epoch == epochs
    assert run.trainer.state.iteration == (2 if done == 2 else 6)


def test_without_measures_there_is_no_target(make_run):
    with pytest.raises(ValueError, match="`measures` must have at least the loss"):
        make_run(measures={})


def test_the_evaluator_must_have_the_metric_of_the_target(make_run):
    run = make_run(measures={"loss": MEASURES["l2"]})
    with pytest.raises(ValueError, match="must have the metric `val_mean_loss`, found val_mean_token_error, val_mean"):
        run.trainer.run()


def test_a_word_is_no_choice(make_run):
    """Fire hands ``--stop_at_target false`` on as text, which counts as true."""
    with pytest.raises(ValueError, match="`stop_at_target` must be True or False, got 'false'"):
        make_run(stop_at_target="false")
