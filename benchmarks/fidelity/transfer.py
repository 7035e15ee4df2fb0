"""What the encoders of `convergence.py` are worth with few labels: does one that reconstructs better segment better?

Every finished run is fine-tuned as a segmenter on one and on four labelled joints of the volumes that it was
pre-trained on, and measured on the joints that pre-training held out. Networks from scratch go along.

All but the encoder is the same for all of them:

- The head is the `two_layer` one: a 3x3x3 convolution to 48 channels, then logits for each token, upsampled. It takes
  both stems and both networks; the skips of `unetr` would need BertsWin's other stem, and bring the ViT a stem of its
  own. With tokens of 5.6 mm it draws a surface coarsely: the best logits there are for a crop have a Dice of about 0.94
  for a phantom and 0.82 for a scan. What counts is the order of the encoders.
- 100 steps of two crops; training and learning rate are those of `label_efficiency.py`, where the encoder's is the
  head's. A minute on one core; with many steps all networks come to the same Dice on phantoms.
- A draw decides which joints are labelled, and the crops, for all encoders alike. The seed, that of pre-training,
  decides the initial weights of the head, and all of them where nothing was pre-trained.

One row for each fine-tuning is appended to the table as soon as it has ended; those that are there are not repeated,
and those of weights or a recipe that have changed since are not looked at. Processes with other seeds may share a
table.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from few_labels import Crops, Data, Schedule, append_row, clock, digest, read_rows, score, train
from torch import nn

from bertswin_ext.networks.pretrained import load_pretrained
from bertswin_ext.networks.record import read_record
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter
from fidelity.arms import ARMS, Job
from fidelity.extras import Transfer
from fidelity.runs import is_complete
from fidelity.volumes import SPACING_MM

__all__ = ["Encoder", "Trial", "encoders_of", "fine_tune_all", "segmenter_of", "transfer_rows", "trials_of"]

LABELLED, STEPS, BATCH_SIZE, RATE = (1, 4), 100, 2, 5e-3
_SEGMENTERS: dict[str, type[nn.Module]] = {"BertsWinMAE": BertsWinSegmenter, "ViTMAE": ViTSegmenter}
_SCRATCH = {"BertsWinMAE": "BertsWin, from scratch", "ViTMAE": "ViT, from scratch"}
_SIZES = ("img_size", "patch_size", "in_channels", "hidden_size", "num_layers", "num_heads")
_OWN_SIZES = ("window_size", "stem_channels", "stem", "mlp_dim")


class Encoder(NamedTuple):
    """What fine-tuning starts from.

    Attributes:
        arm: one of `ARMS`; or, in words, a network from scratch.
        epochs: of pre-training; 0 for from scratch.
        seed: of pre-training, or of the initial weights.
        weights: what tells the file's content; "none" for from scratch.
        file: with the weights, of which a network from scratch takes the sizes only.
    """

    arm: str
    epochs: int
    seed: int
    weights: str
    file: Path


class Trial(NamedTuple):
    """One fine-tuning: everything that its result depends on but the volumes; the first columns of the table."""

    arm: str
    epochs: int
    seed: int
    labelled: int
    draw: int
    steps: int
    rate: float
    weights: str

    def key(self) -> tuple[str, ...]:
        """As in the table."""
        return tuple(str(value) for value in self)


# --- what there is to do ---


def encoders_of(jobs: Sequence[Job], runs: Path, datalist: Path) -> list[Encoder]:
    """Networks from scratch, one for each kind and seed, and the weights of all runs that are complete.

    Args:
        jobs: runs; changes of a recipe are left out.
        runs: their folder.
        datalist: the store that they were trained on.
    """
    trained, scratch = [], {}
    for job in jobs:
        file = _weights(job, runs)
        if not job.change and is_complete(file.parent, job, datalist) and file.is_file():
            trained.append(Encoder(job.arm, job.epochs, job.seed, digest(file), file))
            kind = read_record(file).method
            scratch.setdefault((kind, job.seed), Encoder(_SCRATCH[kind], 0, job.seed, digest(""), file))
    return [*scratch.values(), *trained]


def trials_of(
    encoders: Sequence[Encoder], labelled: Sequence[int] = LABELLED, draws: Sequence[int] = (0,)
) -> list[tuple[Encoder, Trial]]:
    """All fine-tunings, draw by draw, so that a table that is not complete still compares equal things."""
    return [
        (one, Trial(one.arm, one.epochs, one.seed, number, draw, STEPS, RATE, one.weights))
        for draw in draws
        for number in labelled
        for one in encoders
    ]


def _weights(job: Job, runs: Path) -> Path:
    """Where a run leaves them."""
    return runs / job.name / "model.pt"


# --- doing it ---


def fine_tune_all(
    jobs: Sequence[Job],
    runs: Path,
    datalist: Path,
    table: Path,
    labelled: Sequence[int] = LABELLED,
    draws: Sequence[int] = (0,),
) -> None:
    """Append what is missing in the table.

    Args:
        jobs: pre-training runs; those that are not complete are left out.
        runs: their folder.
        datalist: the store that they were trained on, with labels.
        table: one row for each `Trial`.
        labelled: numbers of labelled joints.
        draws: seeds of which joints these are; a draw's smaller numbers are within its larger ones.
    """
    data = Data.of_datalist(datalist)
    data.check(max(labelled))
    for encoder, trial in trials_of(encoders_of(jobs, runs, datalist), labelled, draws):
        # read again each time, for another process may have come first
        if trial.key() not in read_rows(table, Trial._fields):
            scores = fine_tune(encoder, trial, data)
            append_row(table, trial._asdict(), scores)
            name = (
                f"{trial.arm}, {trial.epochs} epochs, seed {trial.seed}, {trial.labelled} labelled, draw {trial.draw}"
            )
            print(f"{name}: Dice {scores['dice']:.4f}, {scores['seconds']:.0f} s", file=sys.stderr, flush=True)


def fine_tune(encoder: Encoder, trial: Trial, data: Data) -> dict[str, float]:
    """Learn from the labelled joints, and measure on the held-out ones."""
    start = clock("cpu")
    network = segmenter_of(encoder)
    crops = Crops(network.img_size[0], network.patch_size, SPACING_MM, BATCH_SIZE)
    schedule = Schedule(trial.steps, trial.rate, trial.rate, trial.draw)
    loss = train(network, crops, schedule, data.labelled(trial.labelled, trial.draw), "cpu")
    scores = score(network, data.held_out, crops, "cpu")
    return {**scores, "loss": loss, "seconds": clock("cpu") - start}


def segmenter_of(encoder: Encoder) -> nn.Module:
    """The network before fine-tuning; one that was pre-trained has every tensor of its encoder from the file."""
    record = read_record(encoder.file)
    sizes = {name: record.arguments[name] for name in (*_SIZES, *_OWN_SIZES) if name in record.arguments}
    torch.manual_seed(encoder.seed)
    network = _SEGMENTERS[record.method](**sizes, decoder="two_layer")
    if encoder.epochs:
        load_pretrained(network, encoder.file, SPACING_MM, min_match=1.0)
    return network


# --- what came of it ---


def transfer_rows(
    table: Path, jobs: Sequence[Job], runs: Path, datalist: Path, fidelity: Callable[[Job], float]
) -> list[Transfer]:
    """Rows for the page: Dice of every encoder by number of labels, mean of the draws that all of them have.

    Args:
        table: that `fine_tune_all` wrote.
        jobs: as there.
        runs: as there.
        datalist: as there.
        fidelity: the page's first metric at the end of a run.
    """
    encoders, rows = encoders_of(jobs, runs, datalist), read_rows(table, Trial._fields)
    files = {one.file for one in encoders}
    reached = {file: fidelity(job) for job in jobs if (file := _weights(job, runs)) in files}
    labelled = sorted({int(row["labelled"]) for row in rows.values()})
    return [
        Transfer(
            arm=ARMS[one.arm].label if one.epochs else one.arm,
            epochs=one.epochs,
            seed=one.seed,
            fidelity=reached[one.file] if one.epochs else float("nan"),
            labelled=number,
            dice=dice,
        )
        for number in labelled
        for one, dice in _mean_dice(encoders, rows, number)
    ]


def _mean_dice(
    encoders: Sequence[Encoder], rows: dict[tuple[str, ...], dict[str, str]], labelled: int
) -> Iterator[tuple[Encoder, float]]:
    """Encoders that have rows, and their Dice over the draws that all of these share."""
    draws = sorted({int(row["draw"]) for row in rows.values()})
    found: dict[Encoder, dict[int, float]] = {}
    for one, trial in trials_of(encoders, [labelled], draws):
        if trial.key() in rows:
            found.setdefault(one, {})[trial.draw] = float(rows[trial.key()]["dice"])
    shared = set(draws).intersection(*found.values())
    for one, dice in found.items():
        if shared:
            yield one, statistics.fmean(dice[draw] for draw in sorted(shared))
