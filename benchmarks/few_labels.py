"""Segmentation learnt from a few labelled joints: training, measuring, and the table that grows run by run."""

from __future__ import annotations

import csv
import hashlib
import math
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import nn

from bertswin_ext.data import SeededDataset, StreamSampler, Uncollated, VolumeReader, load_datalist
from bertswin_ext.data.datalist import Item
from bertswin_ext.engines.prepare_batch import PrepareSegmentationBatch
from bertswin_ext.evaluation import mean_scores, segmentation_scores
from bertswin_ext.inferers import sliding_window
from bertswin_ext.optimizers.parameter_groups import parameter_groups
from bertswin_ext.transforms.pipelines import device_transforms
from bertswin_ext.transforms.segmentation_pipelines import segmentation_preprocessing, segmentation_training

__all__ = ["CLASS_NAMES", "Crops", "Data", "Schedule", "append_row", "clock", "digest", "read_rows", "score", "train"]

CLASS_NAMES = ("background", "mandible", "skull")
WARM_UP, CLIP = 0.1, 1.0


class Crops(NamedTuple):
    """What a network is trained on."""

    img_size: int
    patch_size: int
    spacing_mm: float
    batch_size: int


class Schedule(NamedTuple):
    """How long and how fast it is trained, and the seed of its crops."""

    steps: int
    head_lr: float
    encoder_lr: float
    seed: int


class Data(NamedTuple):
    """Joints to label some of, and joints to measure on."""

    pool: list[Item]
    held_out: list[Item]

    @classmethod
    def of_datalist(cls, source: str | Path) -> Data:
        """Those training and validation items of a datalist that have labels."""
        found = load_datalist(source)
        return cls(*([item for item in part if "label" in item] for part in (found.training, found.validation)))

    def labelled(self, number: int, seed: int) -> list[Item]:
        """So many joints; a seed's smaller numbers are within its larger ones."""
        order = np.random.default_rng(seed).permutation(len(self.pool))
        return [self.pool[index] for index in order[:number]]

    def check(self, most: int) -> None:
        """Refuse too few joints for so many labels."""
        if len(self.pool) < most or not self.held_out:
            found = f"{len(self.pool)} labelled joints to learn from and {len(self.held_out)} to measure on"
            sys.exit(f"{found} are too few for {most}.")


# --- one run ---


def train(network: nn.Module, crops: Crops, schedule: Schedule, items: Sequence[Item], device: str) -> float:
    """The bundle's step, so many times; the mean loss of the last tenth of them."""
    rates = schedule.head_lr, schedule.encoder_lr
    optimizer = torch.optim.AdamW(parameter_groups(network, "full", *rates, weight_decay=0.05))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step / schedule.steps))
    weight = torch.tensor([0.1, 1.0, 1.0], device=device)
    criterion = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, weight=weight)
    losses = []
    network.train()
    for image, label in batches(items, crops, schedule, device):
        with precision(device):
            loss = criterion(network(image), label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return statistics.fmean(losses[-max(1, schedule.steps // 10) :])


def batches(
    items: Sequence[Item], crops: Crops, schedule: Schedule, device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Augmented crops of the labelled joints: images and labels."""
    chain = segmentation_training(crops.img_size, crops.spacing_mm, VolumeReader())
    dataset = SeededDataset(items, chain)
    finish = device_transforms(crops.patch_size, with_label=True, warp_prob=0.5, noise_prob=0.5)
    prepare = PrepareSegmentationBatch(finish, input_key="input")
    keys = iter(StreamSampler(len(items), schedule.seed))
    for _ in range(schedule.steps):
        yield prepare(Uncollated([dataset[next(keys)] for _ in range(crops.batch_size)]), device)


def score(network: nn.Module, items: Sequence[Item], crops: Crops, device: str) -> dict[str, float]:
    """Mean Dice and HD95 over the joints, of all classes and of each."""
    inferer = sliding_window(crops.img_size, crops.patch_size, overlap=0.25)
    dataset = SeededDataset(items, segmentation_preprocessing(crops.spacing_mm, VolumeReader(), with_label=True))
    cases = []
    network.eval()
    for item in dataset:
        with torch.inference_mode(), precision(device):
            logits = inferer(item["image"].as_tensor()[None].to(device), network)
        found = logits[0].argmax(dim=0).cpu()
        cases.append(segmentation_scores(found, item["label"].as_tensor(), [crops.spacing_mm] * 3, CLASS_NAMES))
    return {
        **{name: _mean(mean_scores(case)[name] for case in cases) for name in ("dice", "hd95_mm")},
        **{
            f"{name}_{one.name}": _mean(getattr(case[index], name) for case in cases)
            for name in ("dice", "hd95_mm")
            for index, one in enumerate(cases[0])
        },
    }


def clock(device: str) -> float:
    """Seconds; the CPU's do not contain what other programs took."""
    return time.process_time() if device == "cpu" else time.perf_counter()


def share_of_rate(progress: float) -> float:
    """Share of the learning rate: linear warm-up, then a cosine to zero."""
    if progress < WARM_UP:
        return (progress + 0.01) / (WARM_UP + 0.01)
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def precision(device: str) -> torch.autocast | nullcontext[None]:
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


def _mean(values: Iterable[float]) -> float:
    """Mean of what is counted."""
    return statistics.fmean(value for value in values if not math.isnan(value))


# --- the table ---


def digest(path: str | Path) -> str:
    """Other weights make another run."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8] if path else "none"


def append_row(path: Path, run: Mapping[str, object], scores: Mapping[str, float]) -> None:
    """Add a run and its scores; the first one comes with the titles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow([*run, *scores])
        writer.writerow([*map(str, run.values()), *(f"{value:.5f}" for value in scores.values())])


def read_rows(path: Path, fields: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by what tells runs apart, all of it as text."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row[field] for field in fields): row for row in csv.DictReader(file)}
