"""Samples of a batch that cannot be stacked yet, because their boxes differ in size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

__all__ = ["Uncollated"]

Sample = dict[str, Any]


class Uncollated:
    """What a loader's ``collate_fn`` makes of samples that are finished, and stacked, on the device.

    Neither a list nor a mapping, so that MONAI's engines do not try to decollate what has not been collated.

    Args:
        samples: the samples.

    Example:
        >>> len(Uncollated([{"image": torch.zeros(1, 2, 3, 4)}, {"image": torch.zeros(1, 4, 3, 2)}]))
        2
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = list(samples)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        """The samples."""
        return iter(self._samples)

    def pin_memory(self) -> Uncollated:
        """The samples with their tensors in memory that a GPU copies from while it computes."""
        return Uncollated(
            [
                {key: part.pin_memory() if isinstance(part, torch.Tensor) else part for key, part in sample.items()}
                for sample in self._samples
            ]
        )
