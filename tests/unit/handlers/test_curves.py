import csv
import io
import math
from unittest import mock

import matplotlib.image
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler

from bertswin_ext.handlers.curves import CurvesHandler
from bertswin_ext.optimizers import GradientConductor

LENGTH = 4


def make_optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def step(engine, batch):
    value = torch.tensor(0.1 * engine.state.iteration, requires_grad=True)
    return {"loss": value, "loss_terms": {"brightness": value / 3, "contrast": value * 2}}


def make_run(folder, validated=True, curves_first=False):
    """Return a trainer with curves and a validation whose metric is ten times the epoch."""
    optimizer, trainer = make_optimizer(), Engine(step)
    evaluator = Engine(lambda engine, batch: None) if validated else None
    curves = CurvesHandler(folder, optimizer, evaluator)

    def validate(engine):
        evaluator.run([0])

    if curves_first:
        curves.attach(trainer)
    if validated:
        evaluator.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda e: e.state.metrics.update(
                loss=10.0 * trainer.state.epoch, val_psnr=torch.tensor(5.0), per_class=torch.ones(3)
            ),
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), validate)
    if not curves_first:
        curves.attach(trainer)
    return trainer, curves


def read_table(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_table_and_picture(tmp_path):
    trainer, _ = make_run(tmp_path / "new")
    trainer.run(range(LENGTH), max_epochs=3)
    rows = read_table(tmp_path / "new")
    assert list(rows[0]) == [
        "epoch",
        "iteration",
        "train_loss",
        "train_brightness",
        "train_contrast",
        "learning_rate",
        "seconds",
        "val_loss",
        "val_psnr",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["iteration"] for row in rows] == ["4", "8", "12"]
    assert float(rows[1]["train_loss"]) == pytest.approx(0.65)
    assert float(rows[1]["train_contrast"]) == pytest.approx(1.3)
    assert [row["val_loss"] for row in rows] == ["", "20", ""]  # the header grew; a stale metric is not repeated
    assert {row["learning_rate"] for row in rows} == {"0.5"}
    assert matplotlib.image.imread(tmp_path / "new" / "progress.png").ndim == 3
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["metrics.csv", "progress.png"]


def test_order_of_validation_does_not_matter(tmp_path):
    for folder, first in ((tmp_path / "a", False), (tmp_path / "b", True)):
        make_run(folder, curves_first=first)[0].run(range(LENGTH), max_epochs=2)
    assert without_seconds(read_table(tmp_path / "a")) == without_seconds(read_table(tmp_path / "b"))


@pytest.mark.parametrize("stop", [3, 4, 6, 8, 11])
def test_resumed_rows_equal_uninterrupted_rows(tmp_path, stop):
    trainer, curves = make_run(tmp_path / "whole")
    trainer.run(range(LENGTH), max_epochs=3)
    saved = io.BytesIO()
    first, first_curves = make_run(tmp_path / "half")
    # registered after everything else, like the handler that saves the resume checkpoint
    event = (
        Events.EPOCH_COMPLETED(every=stop // LENGTH) if stop % LENGTH == 0 else Events.ITERATION_COMPLETED(once=stop)
    )

    @first.on(event)
    def save(engine):
        torch.save(first_curves.state_dict(), saved)
        engine.terminate()

    first.run(range(LENGTH), max_epochs=3)
    second, second_curves = make_run(tmp_path / "half")
    saved.seek(0)
    second_curves.load_state_dict(torch.load(saved, weights_only=True))
    second.load_state_dict({"iteration": stop, "max_epochs": 3, "epoch_length": LENGTH})
    second.run(range(LENGTH))
    assert without_seconds(second_curves.rows) == without_seconds(curves.rows)


def test_state_saved_before_the_row_was_written(tmp_path):
    trainer, curves = make_run(tmp_path)
    states = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=LENGTH), lambda e: states.append(curves.state_dict()))
    trainer.run(range(LENGTH), max_epochs=2)
    resumed, resumed_curves = make_run(tmp_path)
    resumed_curves.load_state_dict(states[0])
    resumed.load_state_dict({"epoch": 1, "max_epochs": 2, "epoch_length": LENGTH})
    resumed.run(range(LENGTH))
    assert without_seconds(resumed_curves.rows) == without_seconds(curves.rows)


def test_going_back_to_an_older_checkpoint_drops_newer_rows(tmp_path):
    trainer, curves = make_run(tmp_path)
    trainer.run(range(LENGTH), max_epochs=3)
    again, again_curves = make_run(tmp_path)
    again_curves.load_state_dict(curves.state_dict())
    again.load_state_dict({"epoch": 1, "max_epochs": 2, "epoch_length": LENGTH})
    again.run(range(LENGTH))
    assert [row["epoch"] for row in again_curves.rows] == [1, 2]


def test_state_is_plain_and_a_copy(tmp_path):
    trainer, curves = make_run(tmp_path)
    trainer.run(range(LENGTH), max_epochs=1)
    state = curves.state_dict()
    state["rows"][0]["epoch"] = 99
    assert curves.rows[0]["epoch"] == 1
    assert all(type(value) in (int, float) for value in state["rows"][0].values())
    with pytest.raises(ValueError, match=r"must have 'rows' and 'running', \['running'\] missing in \['rows'\]. Load"):
        curves.load_state_dict({"rows": []})


def test_losses_are_summed_without_reading_them(tmp_path):
    trainer, curves = make_run(tmp_path, validated=False)
    with mock.patch.object(torch.Tensor, "item", side_effect=AssertionError("synchronised")):
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: engine.terminate())
        trainer.run(range(LENGTH), max_epochs=1)
    total = curves._running.sums["train_loss"]
    assert isinstance(total, torch.Tensor)
    assert total.dtype == torch.float64
    assert not total.requires_grad


def test_learning_rate_is_the_one_that_was_used(tmp_path):
    trainer, curves = make_run(tmp_path, validated=False)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: curves.optimizer.param_groups[0].update(lr=float(e.state.iteration))
    )
    trainer.run(range(LENGTH), max_epochs=2)
    assert [row["learning_rate"] for row in curves.rows] == [3.0, 7.0]


def test_rank_one_is_silent(tmp_path):
    trainer, curves = make_run(tmp_path / "nothing")
    with mock.patch("ignite.distributed.get_rank", return_value=1):
        trainer.run(range(LENGTH), max_epochs=2)
    assert curves.rows == []
    assert not (tmp_path / "nothing").exists()


class Autoencoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.ones(()))

    def forward(self, image):
        return {"reconstruction": image + self.bias, "masked": torch.ones(len(image), 8, dtype=torch.bool)}


def test_with_monai_engines(tmp_path):
    network = Autoencoder()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader([{"image": torch.zeros(1, 4, 4, 4), "label": torch.zeros(1)}] * 3)
    metric = Average(output_transform=lambda output: output["pred"]["reconstruction"].mean())
    evaluator = SupervisedEvaluator(
        device="cpu", val_data_loader=loader, network=network, key_val_metric={"val_bias": metric}, decollate=False
    )
    curves = CurvesHandler(tmp_path, optimizer, evaluator)
    SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=lambda pred, target: pred["reconstruction"].square().mean(),
        train_handlers=[ValidationHandler(1, evaluator), curves],
        decollate=False,
    ).run()
    rows = read_table(tmp_path)
    assert list(rows[0]) == ["epoch", "iteration", "train_loss", "learning_rate", "seconds", "val_bias"]
    assert float(rows[0]["val_bias"]) == pytest.approx(0.8**3)
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def test_random_state_is_untouched(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    make_run(tmp_path)[0].run(range(LENGTH), max_epochs=1)
    assert torch.equal(torch.rand(1), expected)


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"`optimizer` must be a torch.optim.Optimizer, got str. Pass"):
        CurvesHandler(tmp_path, "@optimizer")
    trainer = Engine(lambda engine, batch: 1.0)
    CurvesHandler(tmp_path, make_optimizer()).attach(trainer)
    with pytest.raises(ValueError, match=r"needs a mapping with 'loss' as `engine.state.output`, got float. Attach"):
        trainer.run([0])


def make_conducted(folder, bad=(), accumulation_steps=2):
    """A run of two losses whose gradients have the norms 1 and 2; in the iterations ``bad`` one is not finite."""
    weight = torch.nn.Linear(1, 1, bias=False)
    conductor = GradientConductor(weight, {"one": 1.0, "two": 2.0}, accumulation_steps=accumulation_steps)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.5)

    def conducted_step(engine, _batch):
        value = weight(torch.ones(1, 1)).sum()
        factor = float("inf") if engine.state.iteration in bad else 1.0
        if conductor.accumulate({"one": value, "two": value * factor}) and conductor.conduct():
            optimizer.step()
        return {"loss": value * factor}

    trainer = Engine(conducted_step)
    curves = CurvesHandler(folder, optimizer, conductor=conductor)
    curves.attach(trainer)
    return trainer, curves


def test_the_conductor_has_columns(tmp_path):
    trainer, _ = make_conducted(tmp_path)
    trainer.run(range(LENGTH), max_epochs=2)
    row = read_table(tmp_path)[-1]
    assert float(row["conductor/cosine/one-two"]) == pytest.approx(1)
    assert float(row["conductor/norm/two"]) == pytest.approx(2)
    assert float(row["conductor/norm_average/one"]) == pytest.approx(1)
    assert row["conductor/skipped_steps"] == "0"


def test_skipped_steps_are_counted_and_spoil_no_mean(tmp_path):
    trainer, curves = make_conducted(tmp_path, bad=(2, 6, 7), accumulation_steps=1)
    trainer.run(range(LENGTH), max_epochs=2)
    assert [row["conductor/skipped_steps"] for row in curves.rows] == [1, 3]
    assert curves.rows[1]["conductor/norm/two"] == pytest.approx(2)
    assert all(math.isfinite(row["train_loss"]) for row in curves.rows)


def test_the_conductors_means_are_resumed(tmp_path):
    whole, expected = make_conducted(tmp_path / "whole")
    whole.run(range(LENGTH), max_epochs=1)
    stopped, curves = make_conducted(tmp_path / "parts")
    stopped.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate())
    stopped.run(range(LENGTH), max_epochs=1)
    rest, resumed = make_conducted(tmp_path / "parts")
    resumed.load_state_dict(curves.state_dict())
    assert resumed._running.counts["conductor/norm/one"] == 1
    rest.state.iteration = 2
    resumed._epoch_started(mock.Mock(state=mock.Mock(epoch=1)))
    for iteration in (3, 4):
        rest.state.iteration, rest.state.output = iteration, rest._process_function(rest, None)
        resumed._iteration_completed(rest)
    row = resumed._running.row()
    assert row["conductor/norm/two"] == pytest.approx(expected.rows[0]["conductor/norm/two"])
    assert resumed._running.counts["conductor/norm/one"] == 2


def test_an_epoch_without_a_finite_loss_has_no_mean(tmp_path):
    trainer, curves = make_conducted(tmp_path, bad=range(5), accumulation_steps=1)
    trainer.run(range(LENGTH), max_epochs=1)
    assert math.isnan(curves.rows[0]["train_loss"])
    assert curves.rows[0]["conductor/skipped_steps"] == LENGTH
