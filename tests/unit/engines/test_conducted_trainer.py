"""MONAI's trainer with a conductor: same events, same handlers, same accumulation."""

import inspect
import math
from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler, StatsHandler
from torch import nn

from bertswin_ext.engines import ConductedTrainer
from bertswin_ext.optimizers import GradientConductor, LionLARS

LENGTH = 6
WEIGHTS = {"near": 0.7, "small": 0.3}


def two_losses(prediction, target):
    return {"near": (prediction - target).square().mean(), "small": prediction.abs().mean()}


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def make_batches(length=LENGTH):
    torch.manual_seed(1)
    return [(torch.randn(2, 3), torch.randn(2, 2)) for _ in range(length)]


def make(loss=two_losses, weights=WEIGHTS, steps=2, accumulation="classic", network=None, optimizer=None, **arguments):
    network = make_network() if network is None else network
    conductor = GradientConductor(network, weights, accumulation_steps=steps, accumulation=accumulation)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5) if optimizer is None else optimizer(network.parameters())
    defaults = {
        "device": torch.device("cpu"),
        "max_epochs": 2,
        "epoch_length": LENGTH,
        "train_data_loader": make_batches(),
        "prepare_batch": lambda batch, device, non_blocking, **kwargs: batch,
        "decollate": False,
    }
    return ConductedTrainer(
        conductor=conductor, network=network, optimizer=optimizer, loss_function=loss, **(defaults | arguments)
    )


def state(trainer):
    return trainer.network.state_dict()


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_one_loss_is_monais_own_trainer_bit_for_bit(steps):
    loss = nn.MSELoss()
    ours = make(loss, {"loss": 1.0}, steps)
    network = make_network()
    theirs = SupervisedTrainer(
        device="cpu",
        max_epochs=2,
        epoch_length=LENGTH,
        train_data_loader=make_batches(),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.5),
        loss_function=loss,
        prepare_batch=lambda batch, device, non_blocking, **kwargs: batch,
        decollate=False,
        accumulation_steps=steps,
    )
    ours.run()
    theirs.run()
    assert_equal(state(ours), state(theirs))
    assert torch.equal(ours.state.output["loss"], theirs.state.output["loss"])


@pytest.mark.parametrize("accumulation", ["classic", "stochastic"])
def test_it_does_what_the_conductor_does_by_hand(accumulation):
    trainer = make(steps=2, accumulation=accumulation)
    network = make_network()
    conductor = GradientConductor(network, WEIGHTS, accumulation_steps=2, accumulation=accumulation)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for inputs, target in make_batches() * 2:
        if conductor.accumulate(two_losses(network(inputs), target)) and conductor.conduct():
            optimizer.step()
    trainer.run()
    assert_equal(state(trainer), network.state_dict())


def test_events_come_in_monais_order_and_number():
    seen = []
    trainer = make(max_epochs=1)
    for event in (*IterationEvents, Events.ITERATION_COMPLETED):
        trainer.add_event_handler(event, lambda _engine, name=event.name: seen.append(name))
    trainer.run()
    once = ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED", "ITERATION_COMPLETED"]
    assert [name for name in seen if name in once] == once * LENGTH


@pytest.mark.parametrize("decollate", [True, False])
def test_the_output_has_the_weighted_sum_and_its_terms(decollate):
    trainer = make(decollate=decollate, max_epochs=1)
    trainer.run()
    output = trainer.state.output[0] if decollate else trainer.state.output
    terms = output["loss_terms"]
    assert set(terms) == set(WEIGHTS)
    assert float(output["loss"]) == pytest.approx(sum(WEIGHTS[name] * float(terms[name]) for name in WEIGHTS))
    assert not any(term.requires_grad for term in terms.values())


def test_an_epoch_that_ends_in_mid_step_steps():
    steps = []
    trainer = make(steps=4, max_epochs=2)
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert steps == [4, 6, 10, 12]


def test_stochastic_accumulation_needs_whole_steps():
    with pytest.raises(ValueError, match="`epoch_length` must be a multiple of `accumulation_steps` 4, got 6"):
        make(steps=4, accumulation="stochastic").run()


def test_a_step_that_is_not_finite_is_left_out():
    steps = []

    def loss(prediction, target):
        factor = float("nan") if trainer.state.iteration == 3 else 1.0
        return {name: value * factor for name, value in two_losses(prediction, target).items()}

    trainer = make(loss, steps=2, max_epochs=1)
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer.run()
    assert steps == [2, 6]
    assert trainer.conductor.num_skipped == 1
    assert all(value.isfinite().all() for value in state(trainer).values())


def test_monais_handlers_drive_it(tmp_path):
    def handlers(trainer_parts):
        return [
            LrScheduleHandler(trainer_parts["lr_scheduler"], epoch_level=True),
            StatsHandler(output_transform=lambda output: output["loss"]),
            CheckpointSaver(str(tmp_path), trainer_parts, save_interval=1, file_prefix="run"),
        ]

    def build(extra=()):
        network = make_network()
        optimizer = LionLARS(network.parameters(), lr=0.01)
        trainer = make(network=network, optimizer=lambda _: optimizer)
        parts = {
            "model": network,
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
            "conductor": trainer.conductor,
            "trainer": trainer,
        }
        for handler in (*handlers(parts), *(make_handler(parts) for make_handler in extra)):
            handler.attach(trainer)
        return trainer, optimizer

    whole, optimizer = build()
    whole.run()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0025)
    first = str(next(tmp_path.glob("*epoch=1.pt")))
    resumed, _ = build([lambda parts: CheckpointLoader(first, parts)])
    resumed.run()
    assert resumed.state.iteration == 2 * LENGTH
    assert_equal(state(resumed), state(whole))


def test_image_headers_reach_the_output_and_no_state():
    batches = [(MetaTensor(x, meta={"name": "scan"}), MetaTensor(y)) for x, y in make_batches()]
    trainer = make(train_data_loader=batches, optimizer=lambda p: LionLARS(p, lr=0.01))
    plain = make(optimizer=lambda p: LionLARS(p, lr=0.01))
    trainer.run()
    plain.run()
    assert trainer.state.output["pred"].meta["name"] == "scan"
    assert type(trainer.state.output["loss"]) is torch.Tensor
    states = [value for entry in trainer.optimizer.state.values() for value in entry.values()]
    assert not any(isinstance(value, MetaTensor) for value in [*states, trainer.conductor.bank.rows])
    assert_equal(state(trainer), state(plain))


@pytest.mark.filterwarnings("ignore:.*GradScaler.*")
def test_mixed_precision_works_on_a_cpu():
    dtypes = []
    trainer = make(amp=True, amp_kwargs={"dtype": torch.bfloat16}, max_epochs=1)
    trainer.network[0].register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    before = deepcopy(state(trainer))
    trainer.run()
    assert set(dtypes) == {torch.bfloat16}
    assert trainer.conductor.bank.rows.dtype == torch.float32
    assert not torch.equal(before["0.weight"], state(trainer)["0.weight"])


def test_a_compiled_network_takes_several_backward_passes():
    trainer = make(compile=True, compile_kwargs={"backend": "aot_eager"}, max_epochs=1)
    plain = make(max_epochs=1)
    trainer.run()
    plain.run()
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(trainer.network._orig_mod.state_dict()[name], value)


def test_two_value_batches_and_network_arguments():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, factor, shift=0.0):
            return self.linear(x) * factor + shift

    def prepare(batch, device, non_blocking, **kwargs):
        return batch[0], batch[1], (2.0,), {"shift": 1.0}

    trainer = make(network=Scaled(), prepare_batch=prepare, max_epochs=1)
    inputs, _ = make_batches()[0]
    expected = trainer.network(inputs, 2.0, shift=1.0)
    predictions = []
    trainer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda engine: predictions.append(engine.state.output["pred"].detach())
    )
    trainer.run()
    assert torch.equal(predictions[0], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulation_steps": 3}, "`accumulation_steps` must be the conductor's, 2, got 3"),
        ({"network": nn.DataParallel(make_network())}, "must not be wrapped, got DataParallel"),
    ],
)
def test_arguments_that_contradict_each_other(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_a_conductor_or_optimizer_of_another_network():
    conductor = GradientConductor(make_network(), WEIGHTS)
    with pytest.raises(ValueError, match="`conductor` must be made of the trainer's `network`: 4 of its 4 parameters"):
        build(conductor)
    network = make_network()
    optimizer = torch.optim.SGD(make_network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`optimizer` must be made of the trainer's `network`: 4 of its 4 parameters"):
        build(GradientConductor(network, WEIGHTS), network, optimizer)


def build(conductor, network=None, optimizer=None):
    """A trainer of parts that need not fit."""
    network = make_network() if network is None else network
    return ConductedTrainer(
        conductor=conductor,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1) if optimizer is None else optimizer,
        device="cpu",
        max_epochs=1,
        train_data_loader=make_batches(),
        loss_function=two_losses,
    )


def test_a_wrapped_network(monkeypatch):
    class Wrapped(nn.Module):
        """Stands for DistributedDataParallel, which needs a process group."""

        def __init__(self, module):
            super().__init__()
            self.module = module

    monkeypatch.setattr("bertswin_ext.engines.conducted_trainer.DistributedDataParallel", Wrapped)
    network = make_network()
    with pytest.raises(ValueError, match="`network` must not be wrapped in DistributedDataParallel"):
        build(GradientConductor(network, WEIGHTS), Wrapped(network))


@pytest.mark.parametrize("bad", [False, True])
def test_loss_scaling(monkeypatch, bad):
    """float16's scaler, on a CPU: overflows lower the scale and leave no trace; a true fault ends the run."""
    scalers = []

    def make_scaler():
        scalers.append(torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_interval=1000))
        return scalers[-1]

    monkeypatch.setattr("torch.cuda.amp.GradScaler", make_scaler)

    def loss(prediction, target):
        return {name: value * (math.nan if bad else 1.0) for name, value in two_losses(prediction, target).items()}

    options = {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16}, "steps": 1, "epoch_length": 200, "max_epochs": 1}
    trainer = make(loss, train_data_loader=make_batches(200), **options)
    if bad:
        with pytest.raises(ValueError, match="10 steps in a row were skipped"):
            trainer.run()
        assert trainer.conductor.num_skipped > 100
        return
    trainer.run()
    assert trainer.conductor.num_skipped > 10
    # squares of the scaled gradients fit into float32 again
    assert scalers[0].get_scale() < 2.0**70
    assert all(value.isfinite().all() for value in state(trainer).values())
    assert trainer.conductor.last_step.norms["near"] < 10


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss(), "must return a mapping with near, small, the losses of the conductor; got Tensor"),
        (lambda p, t: {"near": p.mean()}, "missing: small"),
        (lambda p, t: {**two_losses(p, t), "far": p.mean()}, "returned far, the conductor knows near, small only"),
    ],
)
def test_losses_that_are_not_the_conductors(loss, message):
    with pytest.raises(ValueError, match=message):
        make(loss).run()


def test_no_batch():
    with pytest.raises(ValueError, match="An iteration needs a batch, got None"):
        make(train_data_loader=[None], epoch_length=1).run()


def test_its_arguments_are_known_before_the_run():
    signature = inspect.signature(ConductedTrainer)
    assert {"conductor", "max_epochs", "amp_kwargs"} <= set(signature.parameters)
    with pytest.raises(TypeError, match="max_epoch"):
        signature.bind_partial(conductor=None, max_epoch=3)
