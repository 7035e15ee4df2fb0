"""Checkpoints to continue a run from, bit for bit."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch.nn.parallel import DistributedDataParallel

from bertswin_ext.data.stream import StreamSampler
from bertswin_ext.files import written_whole
from bertswin_ext.handlers.run_report import to_json
from bertswin_ext.networks.weights import read_checkpoint

__all__ = ["ResumeHandler", "Stateful"]

logger = logging.getLogger(__name__)

_PATTERN = "checkpoint_*.pt"
_SELF_EXPLAINING = ("identity", "trainer", "sampler")


class Stateful(Protocol):
    """Anything with a state that outlives a step."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state over."""
        ...


class ResumeHandler:
    """Save everything a run needs, and continue from it.

    A checkpoint holds the objects of ``state``, the trainer's position, the evaluator's best metric, what the training
    stream is made of, and the random states of all processes. It is written whole or not at all, after an optimizer
    step, so no gradient is pending. Attach this handler after all others, so that it sees what they did. The training
    loader needs a ``generator`` of its own: without one, starting it takes a number from torch's random state.

    Args:
        output_dir: folder of the checkpoints, named ``checkpoint_<iteration>.pt``.
        state: objects to save by name: ``model``, ``optimizer``, ``lr_scheduler``, ...
        sampler: the training stream; its position follows the trainer's.
        batch_size: samples per iteration and process.
        identity: what makes the run this run - data, network, loss, recipe - by name; a checkpoint in which any of it
            differs is refused.
        evaluator: engine whose best metric is kept.
        resume: continue from the newest checkpoint of ``output_dir``; a run without one starts from the beginning.
        interval: optimizer steps between checkpoints within an epoch; there is one at the end of every epoch anyway.
        num_kept: checkpoints to keep.

    Raises:
        ValueError: a number is not positive; at the start of a run, the checkpoint is unreadable or belongs to another
            run, or a run that is not to be resumed would write among the checkpoints of an earlier one.
    """

    def __init__(
        self,
        output_dir: str | Path,
        state: Mapping[str, Stateful],
        sampler: StreamSampler,
        batch_size: int,
        identity: Mapping[str, Any] | None = None,
        evaluator: Engine | None = None,
        resume: bool = False,
        interval: int = 100,
        num_kept: int = 2,
    ) -> None:
        for name, value in (("interval", interval), ("num_kept", num_kept), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.output_dir = Path(output_dir)
        self.state = dict(state)
        self.sampler = sampler
        self.batch_size = batch_size
        self.identity = _Identity(identity or {})
        self.evaluator = evaluator
        self.resume = resume
        self.interval = interval
        self.num_kept = num_kept

    def attach(self, engine: Engine) -> None:
        """Load when the trainer starts, save while it runs."""
        # what tells other runs' checkpoints apart comes first
        first: dict[str, Stateful] = {"identity": self.identity, "trainer": _Position(engine), "sampler": self.sampler}
        self.state = {**first, **self.state, "random": _RandomState()}
        if self.evaluator is not None:
            self.state["best"] = _Best(self.evaluator)
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of this moment and drop the oldest ones; every process must call it."""
        content = {name: _unwrapped(part).state_dict() for name, part in self.state.items()}
        if idist.get_rank() != 0:
            return
        with written_whole(self.output_dir / f"checkpoint_{engine.state.iteration:09d}.pt") as temporary:
            torch.save(content, temporary)
        for old in self._checkpoints()[: -self.num_kept]:
            old.unlink()

    def load(self, path: Path) -> None:
        """Take every part's state over from a checkpoint.

        Raises:
            ValueError: the file is unreadable, or does not belong to this run.
        """
        try:
            content = read_checkpoint(path)
        except ValueError as error:
            older = [other.name for other in self._checkpoints() if other != path]
            remedy = f"Delete it to continue from {older[-1]}." if older else "Delete it to start from the beginning."
            raise ValueError(f"{error} {remedy}") from error
        lacking = sorted(set(self.state) - set(content))
        if lacking:
            raise ValueError(
                f"Checkpoint {path} lacks {', '.join(lacking)}. It was written by another configuration; resume with "
                "the one it was written by."
            )
        for name, part in self.state.items():
            try:
                _unwrapped(part).load_state_dict(content[name])
            except (RuntimeError, KeyError, TypeError, ValueError) as error:
                if name in _SELF_EXPLAINING and isinstance(error, ValueError):
                    raise
                reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
                raise ValueError(
                    f"Checkpoint {path} does not fit this run's {name}: {reason} Resume with the configuration it was "
                    "written by."
                ) from error

    def _started(self, engine: Engine) -> None:
        """Continue from the newest checkpoint."""
        checkpoints = self._checkpoints()
        if idist.get_rank() == 0:
            # what a killed run was writing
            for torn in self.output_dir.glob(f".{_PATTERN}.*.tmp"):
                torn.unlink()
        if checkpoints and not self.resume:
            raise ValueError(
                f"{self.output_dir} holds checkpoints of an earlier run, the newest is {checkpoints[-1].name}. Resume "
                "it, move it away, or choose another `output_dir`."
            )
        if checkpoints:
            self.load(checkpoints[-1])
            logger.info("resumed from %s at iteration %d", checkpoints[-1], engine.state.iteration)
        elif self.resume:
            logger.warning("nothing to resume in %s: starting from the beginning", self.output_dir)
        self.sampler.start = engine.state.iteration * self.batch_size

    def _iteration_completed(self, engine: Engine) -> None:
        """Save every so many optimizer steps; the end of an epoch saves later, after validation."""
        done = (engine.state.iteration - 1) % engine.state.epoch_length + 1
        every = self.interval * getattr(engine, "accumulation_steps", 1)
        if done % every == 0 and done != engine.state.epoch_length:
            self.save(engine)

    def _checkpoints(self) -> list[Path]:
        """Files of this run, oldest first."""
        return sorted(self.output_dir.glob(_PATTERN))


class _Identity:
    """What must be the same for a run to be continued."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = {name: json.dumps(value, sort_keys=True) for name, value in _flat(to_json(facts)).items()}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        names = sorted(self.facts.keys() | state_dict.keys())
        changed = [
            f"{name} {state_dict.get(name, 'absent')} -> {self.facts.get(name, 'absent')}"
            for name in names
            if state_dict.get(name) != self.facts.get(name)
        ]
        if changed:
            raise ValueError(
                f"The run differs from the checkpoint's: {'; '.join(changed)}. Resume with what it was started with, "
                "or start a new run in another `output_dir`."
            )


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts within facts by names as those of a configuration, so that a difference is told by itself."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        inner = _flat(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}::{key}": part for key, part in inner.items()} or {name: value}
    return flat


class _Position:
    """Where the trainer is."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def state_dict(self) -> dict[str, Any]:
        state = self.engine.state
        return {"iteration": state.iteration, "epoch_length": state.epoch_length, "max_epochs": state.max_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = self.engine.state
        if state_dict["epoch_length"] != state.epoch_length:
            raise ValueError(
                f"An epoch has {state.epoch_length} iterations, in the checkpoint {state_dict['epoch_length']}. Resume "
                "with the same steps per epoch and accumulation."
            )
        planned = state_dict["max_epochs"]
        if planned != state.max_epochs:
            logger.warning(
                "the run was planned for %d epochs and now has %d: the learning rate keeps the checkpoint's schedule. "
                "For another schedule start a new run",
                planned,
                state.max_epochs,
            )
        state.iteration = state_dict["iteration"]
        state.epoch = state.iteration // state.epoch_length
        if state.epoch >= state.max_epochs:
            logger.warning("the run is complete, %d of %d epochs: nothing is left to do", state.epoch, state.max_epochs)


class _Best:
    """The best validation so far."""

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator

    def state_dict(self) -> dict[str, Any]:
        state = self.evaluator.state
        return {
            "metric": float(state.best_metric),
            "epoch": int(state.best_metric_epoch),
            "validated": int(state.epoch),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluator.state.best_metric = state_dict["metric"]
        self.evaluator.state.best_metric_epoch = state_dict["epoch"]
        self.evaluator.state.epoch = state_dict["validated"]


class _RandomState:
    """Random states of Python, NumPy, torch and CUDA, of every process."""

    def state_dict(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - saved, not used
        own = {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        if not dist.is_initialized():
            return {"ranks": [own]}
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, own)
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = state_dict["ranks"][idist.get_rank()]
        name, keys, position, has_gauss, cached = own["numpy"]
        random.setstate(own["python"])
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
        torch.set_rng_state(own["torch"])
        if own["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])


def _unwrapped(part: Any) -> Any:
    """The network inside `DistributedDataParallel`."""
    return part.module if isinstance(part, DistributedDataParallel) else part
