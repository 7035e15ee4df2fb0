"""A real, small training run: stream, trainer, validation and every handler that has a state."""

from dataclasses import dataclass

import torch
from ignite.engine import Events
from ignite.metrics import Loss
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.transforms import Compose, Lambdad, RandGaussianNoised
from torch import nn

from bertswin_ext.data import SeededDataset, StreamSampler
from bertswin_ext.handlers import (
    BestModelHandler,
    CurvesHandler,
    LossTermsHandler,
    OptimizerStepHandler,
    PatienceHandler,
    ResumeHandler,
)

EPOCHS = 3


class StoppedError(Exception):
    """What ends a run before its time."""


class TermLoss(nn.Module):
    """Mean squared error with a named term."""

    def forward(self, prediction, target):
        loss = (prediction - target).square().mean()
        self.last_terms = {"half": loss.detach() / 2}
        return loss


@dataclass
class Run:
    trainer: SupervisedTrainer
    evaluator: SupervisedEvaluator
    curves: CurvesHandler
    checkpoint: ResumeHandler
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler
    patience: PatienceHandler

    def outcome(self):
        """Everything a run ends with, but its seconds."""
        return {
            "model": self.trainer.network.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "lr": self.lr_scheduler.get_last_lr(),
            "rows": [{k: v for k, v in row.items() if k != "seconds"} for row in self.curves.rows],
            "best": (self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch),
            "position": (self.trainer.state.epoch, self.trainer.state.iteration),
            "random": torch.get_rng_state(),
        }


def make_loader(dataset, num_workers=0, **arguments):
    return DataLoader(
        dataset, batch_size=2, num_workers=num_workers, generator=torch.Generator().manual_seed(0), **arguments
    )


def take_apart(batch, device, non_blocking, **kwargs):
    return batch["image"], batch["image"], (), {}


def make_run(
    folder,
    resume=False,
    epoch_length=6,
    epochs=EPOCHS,
    interval=1,
    num_items=5,
    seed=0,
    hidden=6,
    lr=0.01,
    patience=10,
    val_interval=1,
    identity=None,
    num_kept=2,
    num_workers=0,
    stop=None,
    init=0,
    metric_cmp_fn=lambda current, best: current < best,
):
    """Build everything anew; ``stop`` is the event at which the run breaks off, before its checkpoint is written."""
    torch.manual_seed(init)
    network = nn.Sequential(nn.Linear(4, hidden), nn.Dropout(0.3), nn.Linear(hidden, 4))
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    lr_scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[3])
    transform = Compose(
        [
            Lambdad("image", lambda n: torch.full((4,), float(n)).as_subclass(torch.Tensor)),
            RandGaussianNoised("image", 1.0),
        ]
    )
    dataset = SeededDataset([{"image": n} for n in range(num_items)], transform)
    sampler = StreamSampler(num_items, seed=seed)
    loss = TermLoss()
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=make_loader(dataset),
        network=network,
        prepare_batch=take_apart,
        key_val_metric={"val_loss": Loss(loss, lambda output: (output["pred"], output["label"]))},
        metric_cmp_fn=metric_cmp_fn,
        val_handlers=[BestModelHandler(folder / "model.pt", network)],
        decollate=False,
    )
    patience_handler = PatienceHandler(evaluator, patience)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        epoch_length=epoch_length,
        train_data_loader=make_loader(dataset, num_workers, sampler=sampler),
        network=network,
        optimizer=optimizer,
        loss_function=loss,
        prepare_batch=take_apart,
        train_handlers=[
            OptimizerStepHandler(max_norm=1.0, lr_scheduler=lr_scheduler),
            LossTermsHandler(loss),
            ValidationHandler(val_interval, evaluator),
            patience_handler,
        ],
        accumulation_steps=2,
        decollate=False,
    )
    curves = CurvesHandler(folder, optimizer, evaluator)
    curves.attach(trainer)
    if stop is not None:
        trainer.add_event_handler(stop, break_off)
    checkpoint = ResumeHandler(
        folder / "checkpoints",
        {"model": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "curves": curves},
        sampler,
        batch_size=2,
        identity=identity,
        evaluator=evaluator,
        resume=resume,
        interval=interval,
        num_kept=num_kept,
    )
    checkpoint.attach(trainer)
    return Run(trainer, evaluator, curves, checkpoint, lr_scheduler, patience_handler)


def break_off(engine):
    raise StoppedError(f"stopped at iteration {engine.state.iteration}")


def after_iteration(iteration):
    return Events.ITERATION_COMPLETED(once=iteration)


def same(a, b):
    """Whether two nested states are equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b
