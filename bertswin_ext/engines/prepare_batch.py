"""From a batch to what network and loss want."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from monai.engines import PrepareBatch
from monai.transforms import Compose

from bertswin_ext.errors import root_cause

__all__ = ["PreparePretrainingBatch", "PrepareSegmentationBatch"]

_NETWORK_KEYS = ("noise", "valid")
_TARGET_KEYS = ("image", "valid", "label", "has_label")

Sample = Mapping[str, Any]
Transform: TypeAlias = Compose | Callable[[Sample], Sample]


class PreparePretrainingBatch(PrepareBatch):  # type: ignore[misc]
    """Finish the samples on the device, and split them into the network's input, the loss' target and the rest.

    Args:
        transform: what is done with every sample on the device, seeded by its ``seed``; nothing by default.
        input_key: what the network sees.
        target_key: what the loss compares with; another key where noise is added to the input only.

    Shape:
        - batch: samples (`Uncollated`), or a collated batch if there is no transform: ``image`` (b, c, i, j, k),
          ``noise`` (b, n) and, where known, ``valid`` (b, n), ``label`` and ``has_label`` (b,). The tensors of samples
          have no first axis, and may differ in size before the transform.
        - output: input (b, c, i, j, k); target, a mapping; no positional arguments; ``noise`` and ``valid``.

    Raises:
        ValueError: a batch lacks the input or the target.
    """

    def __init__(self, transform: Transform | None = None, input_key: str = "image", target_key: str = "image") -> None:
        self.transform = transform
        self.input_key = input_key
        self.target_key = target_key

    def __call__(
        self,
        batchdata: Sample | Iterable[Sample],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[()], dict[str, torch.Tensor]]:
        """Move a batch to the device, finish it and take it apart."""
        keys = {self.input_key, self.target_key, *_NETWORK_KEYS, *_TARGET_KEYS}
        batch = _finished_batch(batchdata, self.transform, keys, device, non_blocking, **kwargs)
        _check_has(batch, {self.input_key, self.target_key})
        target = {key: batch[key] for key in _TARGET_KEYS if key in batch}
        target["image"] = batch[self.target_key]
        return batch[self.input_key], target, (), {key: batch[key] for key in _NETWORK_KEYS if key in batch}


class PrepareSegmentationBatch(PrepareBatch):  # type: ignore[misc]
    """Finish the samples on the device, and split them into the network's input and the label.

    Args:
        transform: what is done with every sample on the device, seeded by its ``seed``; nothing by default.
        input_key: what the network sees.
        label_key: the label map.

    Shape:
        - batch: samples (`Uncollated`), or a collated batch if there is no transform.
        - output: input (b, c, i, j, k) and label (b, 1, i, j, k).

    Raises:
        ValueError: a batch lacks the input or the label.
    """

    def __init__(self, transform: Transform | None = None, input_key: str = "image", label_key: str = "label") -> None:
        self.transform = transform
        self.input_key = input_key
        self.label_key = label_key

    def __call__(
        self,
        batchdata: Sample | Iterable[Sample],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move a batch to the device, finish it and take it apart."""
        keys = {self.input_key, self.label_key}
        batch = _finished_batch(batchdata, self.transform, keys, device, non_blocking, **kwargs)
        _check_has(batch, keys)
        return batch[self.input_key], batch[self.label_key]


def _finished_batch(
    batchdata: Sample | Iterable[Sample],
    transform: Transform | None,
    keys: set[str],
    device: str | torch.device | None,
    non_blocking: bool,
    **kwargs: Any,
) -> dict[str, torch.Tensor]:
    """The tensors of a batch on the device, its samples finished and stacked."""
    if not isinstance(batchdata, Mapping):
        samples = [_finished(_moved(sample, device, non_blocking, **kwargs), transform) for sample in batchdata]
        return _stacked(samples, keys)
    if transform is not None:
        raise ValueError("Samples to be finished must not be collated: give the loader `collate_fn=Uncollated`.")
    return _tensors(_moved(batchdata, device, non_blocking, **kwargs))


def _finished(sample: dict[str, Any], transform: Transform | None) -> dict[str, torch.Tensor]:
    """A sample after the transform."""
    if transform is None:
        return _tensors(sample)
    if isinstance(transform, Compose):
        if "seed" not in sample:
            raise ValueError("A sample to be finished must have a `seed`: add `RandSeedd` to the loader's transforms.")
        transform.set_random_state(seed=sample["seed"])
    try:
        return _tensors(transform(sample))
    except RuntimeError as error:
        raise root_cause(error) from None


def _stacked(samples: Sequence[Mapping[str, torch.Tensor]], keys: set[str]) -> dict[str, torch.Tensor]:
    """What is needed of the samples of a batch, one on top of the other."""
    kept = [{key: value for key, value in sample.items() if key in keys} for sample in samples]
    differing = sorted(set().union(*kept) - set(kept[0]).intersection(*kept))
    if differing:
        raise ValueError(f"The samples of a batch must have the same entries; some lack {', '.join(differing)}.")
    batch: dict[str, torch.Tensor] = {}
    stacks: dict[tuple[int, ...], torch.Tensor] = {}
    for key in kept[0]:
        # input and target are one tensor where nothing disturbs the input
        parts = [sample[key] for sample in kept]
        own = tuple(map(id, parts))
        batch[key] = stacks[own] = stacks[own] if own in stacks else torch.stack(parts)
    return batch


def _check_has(batch: Mapping[str, torch.Tensor], keys: set[str]) -> None:
    """Raise if a batch lacks what is asked for."""
    lacking = sorted(keys - set(batch))
    if lacking:
        raise ValueError(f"A batch must have {', '.join(lacking)}, found {', '.join(sorted(batch)) or 'no tensor'}.")


def _moved(sample: Sample, device: str | torch.device | None, non_blocking: bool, **kwargs: Any) -> dict[str, Any]:
    """A sample or batch with its tensors on the device."""
    return {
        key: value.to(device=device, non_blocking=non_blocking, **kwargs) if isinstance(value, torch.Tensor) else value
        for key, value in sample.items()
    }


def _tensors(sample: Sample) -> dict[str, torch.Tensor]:
    """The tensors among the entries of a sample."""
    return {key: value for key, value in sample.items() if isinstance(value, torch.Tensor)}
