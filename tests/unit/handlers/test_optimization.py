"""Clipping, the schedule and the check of the gradients act once per optimizer step."""

from copy import deepcopy

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch import nn

from bertswin_ext.handlers.optimization import LossTermsHandler, OptimizerStepHandler

LENGTH = 4


def make(max_norm=None, accumulation_steps=2, scheduled=False, batches=None, epochs=1, decollate=False, **arguments):
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5) if scheduled else None
    batches = [(torch.randn(2, 3), torch.randn(2, 2)) for _ in range(LENGTH)] if batches is None else batches
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=LENGTH,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        prepare_batch=lambda batch, device, non_blocking, **kwargs: batch,
        train_handlers=[OptimizerStepHandler(max_norm, scheduler)],
        accumulation_steps=accumulation_steps,
        decollate=decollate,
        **arguments,
    )
    return trainer, batches


def by_hand(network, batches, max_norm, accumulation_steps):
    """Accumulate, clip, step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    norms = []
    for at in range(0, len(batches), accumulation_steps):
        optimizer.zero_grad()
        for inputs, target in batches[at : at + accumulation_steps]:
            (nn.functional.mse_loss(network(inputs), target) / accumulation_steps).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm).item())
        optimizer.step()
    return norms


@pytest.mark.parametrize("accumulation_steps", [1, 2, 4])
@pytest.mark.parametrize("max_norm", [0.05, 1e6])
def test_clipping_equals_clipping_by_hand(accumulation_steps, max_norm):
    trainer, batches = make(max_norm, accumulation_steps)
    network = deepcopy(trainer.network)
    trainer.run()
    norms = by_hand(network, batches, max_norm, accumulation_steps)
    assert (min(norms) > max_norm) == (max_norm < 1)
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


def test_no_limit_leaves_the_gradients_alone():
    trainer, batches = make(None)
    network = deepcopy(trainer.network)
    trainer.run()
    by_hand(network, batches, 1e9, 2)
    assert torch.equal(trainer.network.weight, network.weight)


@pytest.mark.parametrize(("accumulation_steps", "steps"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_the_schedule_counts_optimizer_steps(accumulation_steps, steps):
    trainer, _ = make(accumulation_steps=accumulation_steps, scheduled=True)
    trainer.run()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5 * 0.5**steps


def test_a_second_run_does_not_count_twice():
    trainer, _ = make(scheduled=True)
    trainer.run()
    trainer.state.max_epochs = 2
    trainer.run()
    assert trainer.state.iteration == 2 * LENGTH
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5 * 0.5**4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_stop_the_run(value):
    batches = [(torch.randn(2, 3), torch.randn(2, 2)) for _ in range(LENGTH)]
    batches[2][1][0, 0] = value
    trainer, _ = make(1.0, batches=batches)
    before = []
    trainer.optimizer.register_step_post_hook(lambda *_: before.append(trainer.network.weight.clone()))
    with pytest.raises(
        ValueError, match=r"gradients are not finite \(norm (nan|inf)\) at iteration 4\. Lower the learning"
    ):
        trainer.run()
    assert len(before) == 1
    assert torch.equal(trainer.network.weight, before[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bfloat16_needs_no_loss_scaling(monkeypatch, dtype):
    """Scaling would skip the bad step without a word."""
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: torch.amp.GradScaler("cpu"))
    batches = [(torch.randn(2, 3), torch.full((2, 2), float("nan"))) for _ in range(LENGTH)]
    trainer, _ = make(1.0, batches=batches, amp=True, amp_kwargs={"dtype": dtype})
    if dtype == torch.float16:
        trainer.run()
        assert trainer.scaler.is_enabled()
    else:
        with pytest.raises(ValueError, match=r"gradients are not finite \(norm nan\) at iteration 2"):
            trainer.run()


@pytest.mark.parametrize("max_norm", [0, -1.0])
def test_the_limit_must_be_positive(max_norm):
    with pytest.raises(ValueError, match=f"`max_norm` must be positive or None, got {max_norm}"):
        OptimizerStepHandler(max_norm)


@pytest.mark.parametrize("decollate", [False, True])
def test_the_terms_of_the_loss_are_beside_the_loss(decollate):
    class Loss(nn.MSELoss):
        def forward(self, prediction, target):
            loss = super().forward(prediction, target)
            self.last_terms = {"half": loss.detach() / 2}
            return loss

    trainer, _ = make(decollate=decollate)
    trainer.loss_function = Loss()
    LossTermsHandler(trainer.loss_function).attach(trainer)
    trainer.run()
    samples = trainer.state.output if decollate else [trainer.state.output]
    assert len(samples) == (2 if decollate else 1)
    for sample in samples:
        assert sample["loss_terms"] == {"half": pytest.approx(float(sample["loss"]) / 2)}
        assert sample["loss_terms"] is not trainer.loss_function.last_terms
