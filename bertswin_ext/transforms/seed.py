"""One random number that what comes after the loader draws everything from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import RandomizableTransform
from monai.utils import MAX_SEED

__all__ = ["RandSeedd"]


class RandSeedd(RandomizableTransform):  # type: ignore[misc]
    """Add a seed to a sample, so that transforms of it in another process, or on a GPU, are repeatable.

    Args:
        key: where the seed is put, an int.

    Example:
        >>> RandSeedd().set_random_state(0)({}) == RandSeedd().set_random_state(0)({})
        True
    """

    def __init__(self, key: str = "seed") -> None:
        super().__init__(prob=1.0)
        self.key = key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its seed."""
        return {**data, self.key: int(self.R.randint(MAX_SEED, dtype="uint32"))}
