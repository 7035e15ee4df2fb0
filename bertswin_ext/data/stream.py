"""An endless stream of training samples whose every random draw is a function of the seed and the position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose
from torch.utils.data import Sampler

from bertswin_ext.errors import listed_under, root_cause

__all__ = ["SampleKey", "SeededDataset", "ShareSampler", "StreamSampler"]

SampleKey = tuple[int, int]

_REMEDY = (
    "`python -m bertswin_ext check --dataset ... --spacing_mm ... --img_size ...` lists every fault of a data set "
    "beforehand."
)


class StreamSampler(Sampler[SampleKey]):
    """Endless (index, seed) keys: pass after pass over the items, each in an order of its own.

    Position ``p`` of the whole stream - all ranks together - has its index and its seed from (``seed``, ``p``) alone,
    so a run can be continued anywhere, and r ranks with batches of b see what one rank with batches of r * b sees.

    Args:
        num_items: items of the dataset.
        seed: seed of the stream.
        rank: number of this process.
        num_ranks: number of processes that share the stream.

    Raises:
        ValueError: there are no items, or the rank is not one of the ranks.

    Example:
        >>> keys = iter(StreamSampler(3, seed=0))
        >>> sorted(next(keys)[0] for _ in range(3))
        [0, 1, 2]
    """

    def __init__(self, num_items: int, seed: int = 0, rank: int = 0, num_ranks: int = 1) -> None:
        if num_items < 1:
            raise ValueError("The training set is empty. Add volumes to the datalist, or lower `val_fraction`.")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"`rank` must lie in [0, {num_ranks}), got {rank}.")
        self.num_items = num_items
        self.seed = seed
        self.rank = rank
        self.num_ranks = num_ranks
        self.start = 0

    def __iter__(self) -> Iterator[SampleKey]:
        """Keys of this rank from ``start`` on, counted in samples of this rank."""
        position = self.start * self.num_ranks + self.rank
        order, current = np.empty(0, dtype=np.int64), -1
        while True:
            lap, place = divmod(position, self.num_items)
            if lap != current:
                order, current = np.random.default_rng([self.seed, 0, lap]).permutation(self.num_items), lap
            sample_seed = np.random.SeedSequence([self.seed, 1, position]).generate_state(1)[0]
            yield int(order[place]), int(sample_seed)
            position += self.num_ranks

    def state_dict(self) -> dict[str, int]:
        """What a stream must agree on to be continued."""
        return {"num_items": self.num_items, "seed": self.seed, "num_ranks": self.num_ranks}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Check that this is the stream that was saved.

        Raises:
            ValueError: the data, the seed or the number of processes have changed.
        """
        own = self.state_dict()
        changed = [f"{key} {state_dict.get(key)} -> {own[key]}" for key in own if own[key] != state_dict.get(key)]
        if changed:
            raise ValueError(
                f"The training stream differs from the checkpoint's: {', '.join(changed)}. Resume with the same "
                "datalist, seed and number of processes, or start a new run in another `output_dir`."
            )


class ShareSampler(Sampler[int]):
    """Every process' share of the items, in order and without repetition.

    Args:
        num_items: items of the dataset.
        rank: number of this process.
        num_ranks: number of processes; where there are more of them than items, some items come twice, so that no
            process is left without one.
        allow_empty: take no items for what they are, where a run can do without validation.

    Raises:
        ValueError: there are no items.

    Example:
        >>> list(ShareSampler(5, rank=1, num_ranks=2)), list(ShareSampler(1, rank=1, num_ranks=2))
        ([1, 3], [0])
    """

    def __init__(self, num_items: int, rank: int = 0, num_ranks: int = 1, allow_empty: bool = False) -> None:
        if num_items < 1 and not allow_empty:
            raise ValueError("There are no volumes to validate on. Add some to the datalist, or raise `val_fraction`.")
        surplus = [rank % num_items] if num_items else []
        self.indices = list(range(rank, num_items, num_ranks)) or surplus

    def __iter__(self) -> Iterator[int]:
        """Indices of the share."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Size of the share."""
        return len(self.indices)


class SeededDataset(CacheDataset):  # type: ignore[misc]
    """`monai.data.CacheDataset` whose random transforms are seeded sample by sample.

    An item is asked for by a `SampleKey`; by a plain index it has a seed of its own, the same every time, which makes
    validation repeatable. What is loaded before the first random transform is cached; the volumes to cache are opened
    at construction, so that every fault among them is reported at once.

    Args:
        data: items of a datalist.
        transform: transforms, deterministic ones first. No random one may write into what it is given.
        seed: seed of the items asked for by a plain index.
        cache_rate: share of the items to keep in memory.
        num_workers: threads that fill the cache.
        progress: show a progress bar while loading.

    Raises:
        ValueError: volumes could not be used; the message names each of them.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Compose | Callable[..., Any],
        seed: int = 0,
        cache_rate: float = 1.0,
        num_workers: int = 2,
        progress: bool = False,
    ) -> None:
        self.seed = seed
        self._faults: dict[int, str] = {}
        super().__init__(
            data,
            transform,
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=progress,
            # a whole volume is much larger than the box that is cut out of it
            copy_cache=False,
        )
        if self._faults:
            faults = [self._faults[index] for index in sorted(self._faults)]
            heading = f"{len(faults)} of {len(data)} volumes cannot be used"
            raise ValueError(f"{listed_under(heading, faults)}\n{_REMEDY}")

    def __getitem__(self, key: int | SampleKey) -> Any:
        """The sample of a key (index, seed), or of a plain index."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        index = range(len(self))[index]
        self.transform.set_random_state(seed=_seed_of(self.seed, index) if seed is None else seed)
        try:
            return super().__getitem__(index)
        except RuntimeError as error:
            raise root_cause(error) from None

    def cached(self) -> Sequence[Any]:
        """What is kept in memory of the first ``cache_num`` items: all that comes before a random transform."""
        return list(self._cache)

    def _load_cache_item(self, idx: int) -> Any:
        """Load one volume; a fault is kept for the report instead of raised."""
        try:
            return super()._load_cache_item(idx)
        except (RuntimeError, ValueError, OSError) as error:
            self._faults[idx] = str(root_cause(error))
            return None


def _seed_of(seed: int, index: int) -> int:
    """Seed of the item that a plain index names."""
    return int(np.random.SeedSequence([seed, 2, index]).generate_state(1)[0])
