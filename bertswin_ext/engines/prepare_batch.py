"""From a batch to what network and loss want."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.transforms import Compose

from bertswin_ext.errors import root_cause

__all__ = ["PreparePretrainingBatch"]

_NETWORK_KEYS = ("noise", "valid")
_TARGET_KEYS = ("image", "valid", "label", "has_label")

Sample = Mapping[str, Any]


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

    def __init__(
        self,
        transform: Compose | Callable[[Sample], Sample] | None = None,
        input_key: str = "image",
        target_key: str = "image",
    ) -> None:
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
        if not isinstance(batchdata, Mapping):
            moved = self._stacked([self._finished(_moved(s, device, non_blocking, **kwargs)) for s in batchdata])
        elif self.transform is None:
            moved = _tensors(_moved(batchdata, device, non_blocking, **kwargs))
        else:
            raise ValueError("Samples to be finished must not be collated: give the loader `collate_fn=Uncollated`.")
        lacking = sorted({self.input_key, self.target_key} - set(moved))
        if lacking:
            raise ValueError(
                f"A batch must have {', '.join(lacking)}, found {', '.join(sorted(moved)) or 'no tensor'}."
            )
        target = {key: moved[key] for key in _TARGET_KEYS if key in moved}
        target["image"] = moved[self.target_key]
        return moved[self.input_key], target, (), {key: moved[key] for key in _NETWORK_KEYS if key in moved}

    def _finished(self, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
        """A sample after the transform."""
        if self.transform is None:
            return _tensors(sample)
        if isinstance(self.transform, Compose):
            if "seed" not in sample:
                raise ValueError(
                    "A sample to be finished must have a `seed`: add `RandSeedd` to the loader's transforms."
                )
            self.transform.set_random_state(seed=sample["seed"])
        try:
            return _tensors(self.transform(sample))
        except RuntimeError as error:
            raise root_cause(error) from None

    def _stacked(self, samples: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What is needed of the samples of a batch, one on top of the other."""
        needed = {self.input_key, self.target_key, *_NETWORK_KEYS, *_TARGET_KEYS}
        kept = [{key: value for key, value in sample.items() if key in needed} for sample in samples]
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


def _moved(sample: Sample, device: str | torch.device | None, non_blocking: bool, **kwargs: Any) -> dict[str, Any]:
    """A sample or batch with its tensors on the device."""
    return {
        key: value.to(device=device, non_blocking=non_blocking, **kwargs) if isinstance(value, torch.Tensor) else value
        for key, value in sample.items()
    }


def _tensors(sample: Sample) -> dict[str, torch.Tensor]:
    """The tensors among the entries of a sample."""
    return {key: value for key, value in sample.items() if isinstance(value, torch.Tensor)}
