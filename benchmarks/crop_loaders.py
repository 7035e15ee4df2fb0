"""The loaders that `loader.py` compares, and the volumes they draw from: MONAI plain and at its best, and ours."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandAffined,
    RandSpatialCropd,
    ScaleIntensityRanged,
    SelectItemsd,
)
from torch.utils.data import DataLoader, Dataset, Sampler

from bertswin_ext.data import SeededDataset, StreamSampler, Uncollated
from bertswin_ext.engines import PreparePretrainingBatch
from bertswin_ext.stored_volume import write_stored_volume
from bertswin_ext.transforms import device_transforms, pretraining_transforms
from bertswin_ext.voxels import VOXELS

SPACING_MM = 0.2
ROTATE_DEG, SCALE = 12.0, 0.1

PLAIN, BEST = "MONAI, plain", "MONAI, at its best"
OURS, DISTURBED = "ours", "ours, with noise and warp"
LOADER_ONLY, COLD = "ours, loader only", "ours, loader only, from disk"
PIPELINES = (PLAIN, BEST, OURS, DISTURBED, LOADER_ONLY, COLD)

Items = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Sizes:
    """Edges in voxels of the stored volumes, of a crop, and of a token."""

    volume: int = 400
    crop: int = 224
    patch: int = 16

    @property
    def room(self) -> int:
        """How far a crop's middle may be from the volume's: 42 of 224, so that the core of 140 stays inside."""
        return (self.crop - round(self.crop * 140 / 224)) // 2


@dataclass
class Pipeline:
    """A loader that ends after a few samples, and goes on from there the next time; and what follows it."""

    loader: DataLoader
    num_samples: int
    finish: Callable[[Any], Any] = lambda batch: batch
    prepare: Callable[[], None] = lambda: None

    def batches(self) -> Iterator[Any]:
        """Finished batches."""
        return map(self.finish, self.loader)


class Portion(Sampler):
    """The next few keys of an endless stream, whenever it is gone through."""

    def __init__(self, keys: Iterator[Any], count: int) -> None:
        self.keys = keys
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return islice(self.keys, self.count)

    def __len__(self) -> int:
        return self.count


# --- volumes ---


def write_volumes(folder: Path, sizes: Sizes, count: int) -> list[tuple[Path, Path]]:
    """Random volumes, HU in the training window: one file as we store it, one as anybody would."""
    generator, affine, paths = np.random.default_rng(0), np.diag([SPACING_MM] * 3 + [1.0]), []
    for number in range(count):
        array = generator.integers(-1000, 1900, (sizes.volume,) * 3, dtype=np.int16)
        stored, usual = folder / f"stored_{number}.nii", folder / f"usual_{number}.nii"
        write_stored_volume(stored, array, affine)
        nib.save(nib.Nifti1Image(array, affine), usual)
        paths.append((stored, usual))
    return paths


def linked(paths: Sequence[Path], count: int) -> list[Path]:
    """As many names as volumes are wanted, for a handful of files."""
    folder = paths[0].parent / f"{paths[0].stem}_{count}"
    folder.mkdir(exist_ok=True)
    links = [folder / f"{number}.nii" for number in range(count)]
    for number, link in enumerate(links):
        if not link.exists():
            link.hardlink_to(paths[number % len(paths)])
    return links


def items_of(paths: Sequence[Path], sizes: Sizes) -> Items:
    """A datalist whose joints are in the middle of the volumes."""
    center = [(sizes.volume - 1) / 2 * SPACING_MM] * 3
    return [{"image": str(path), "center_mm": center, "joint": "right"} for path in paths]


def forget(paths: Sequence[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file)  # what is not on disk yet is not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- pipelines ---


def dataset_of(name: str, items: Items, sizes: Sizes, device: str = "cpu") -> Dataset:
    """What one of `PIPELINES` draws from; making it loads what it wants to have in memory."""
    if name in (PLAIN, BEST):
        return monai_dataset(items, sizes, name == BEST, device)
    load, finish = our_transforms(name, sizes)
    if name in (LOADER_ONLY, COLD) or device != "cpu":
        return SeededDataset(items, load)
    # undisturbed, the image is the network's input
    wanted = SelectItemsd(["image", "valid", "noise", *(["input"] if name == DISTURBED else [])])
    return SeededDataset(items, Compose([*load.transforms, *finish.transforms, wanted]))


def pipeline(
    name: str,
    dataset: Dataset,
    sizes: Sizes,
    num_samples: int,
    batch_size: int = 2,
    workers: int = 0,
    device: str = "cpu",
) -> Pipeline:
    """One of `PIPELINES` on a dataset made for it."""
    stream = StreamSampler(len(dataset), seed=0)
    keys = (index for index, _ in stream) if name in (PLAIN, BEST) else iter(stream)
    options = {
        "sampler": Portion(keys, num_samples),
        "batch_size": batch_size,
        "num_workers": workers,
        "persistent_workers": workers > 0,
    }
    if name in (PLAIN, BEST):
        return Pipeline(monai.data.DataLoader(dataset, **options), num_samples)
    if name in (LOADER_ONLY, COLD):
        files = [Path(item["image"]) for item in dataset.data] if name == COLD else []
        return Pipeline(
            DataLoader(dataset, collate_fn=Uncollated, **options), num_samples, prepare=lambda: forget(files)
        )
    if device == "cpu":
        return Pipeline(DataLoader(dataset, **options), num_samples)
    finish, key = our_transforms(name, sizes)[1], "input" if name == DISTURBED else "image"
    prepare_batch = PreparePretrainingBatch(finish, input_key=key)
    loader = DataLoader(dataset, collate_fn=Uncollated, pin_memory=device.startswith("cuda"), **options)
    return Pipeline(loader, num_samples, lambda batch: _as_mapping(prepare_batch(batch, device, non_blocking=True)))


def our_transforms(name: str, sizes: Sizes) -> tuple[Compose, Compose]:
    """What the loader does, and what is left to do with a sample."""
    probability = 1.0 if name == DISTURBED else 0.0
    load = pretraining_transforms(sizes.crop, sizes.patch, SPACING_MM, prepared=True)
    return load, device_transforms(sizes.patch, warp_prob=probability, noise_prob=probability)


def monai_dataset(items: Items, sizes: Sizes, best: bool = False, device: str = "cpu") -> CacheDataset:
    """The same crops by MONAI alone: volumes in memory, one random affine resampling.

    At its best the volume is not copied for every sample, the grid is not made anew, and the shift is a crop, whose
    middle is as far from the volume's.
    """
    affine: dict[str, Any] = {
        "prob": 1.0,
        "rotate_range": [math.radians(ROTATE_DEG)] * 3,
        "scale_range": [SCALE] * 3,
        "spatial_size": [sizes.crop] * 3,
        "mode": "bilinear",
        "padding_mode": "border",
        "device": torch.device(device),
    }
    if not best:
        moved = RandAffined("image", translate_range=[sizes.room] * 3, **affine)
        return CacheDataset(items, Compose([*monai_loading(), moved]), progress=False)
    part = RandSpatialCropd("image", [sizes.volume - 2 * sizes.room] * 3, random_size=False)
    chain = Compose([*monai_loading(), part, RandAffined("image", cache_grid=True, **affine)])
    return CacheDataset(items, chain, progress=False, copy_cache=False)


def monai_loading() -> list[Any]:
    """From a file to a standardized volume; all of it is cached."""
    orientation = Orientationd("image", axcodes="RAS", labels=None)
    standardization = ScaleIntensityRanged(
        "image",
        a_min=VOXELS.min_hu,
        a_max=VOXELS.max_hu,
        b_min=VOXELS.normalized(VOXELS.min_hu),
        b_max=VOXELS.normalized(VOXELS.max_hu),
        clip=True,
    )
    return [LoadImaged("image"), EnsureChannelFirstd("image"), orientation, standardization]


def _as_mapping(prepared: tuple[Any, ...]) -> dict[str, Any]:
    return prepared[1] | {"input": prepared[0]}
