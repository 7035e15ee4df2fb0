"""From a batch to what network and loss want."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch

__all__ = ["PreparePretrainingBatch"]

_NETWORK_KEYS = ("noise", "valid")
_TARGET_KEYS = ("image", "valid", "label")


class PreparePretrainingBatch(PrepareBatch):  # type: ignore[misc]
    """Split a batch into the network's input, the loss' target and the network's keyword arguments.

    Args:
        input_key: what the network sees.
        target_key: what the loss compares with; another key where noise is added to the input only.

    Shape:
        - batch: ``image`` (b, c, i, j, k), ``noise`` (b, n) and, where known, ``valid`` (b, n) and ``label``.
        - output: input (b, c, i, j, k); target, a mapping; no positional arguments; ``noise`` and ``valid``.

    Raises:
        ValueError: a batch lacks the input or the target.
    """

    def __init__(self, input_key: str = "image", target_key: str = "image") -> None:
        self.input_key = input_key
        self.target_key = target_key

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple[()], dict[str, torch.Tensor]]:
        """Move a batch to the device and take it apart."""
        moved = {
            key: value.to(device=device, non_blocking=non_blocking, **kwargs)
            for key, value in batchdata.items()
            if isinstance(value, torch.Tensor)
        }
        lacking = sorted({self.input_key, self.target_key} - set(moved))
        if lacking:
            raise ValueError(
                f"A batch must have {', '.join(lacking)}, found {', '.join(sorted(moved)) or 'no tensor'}."
            )
        target = {key: moved[key] for key in _TARGET_KEYS if key in moved}
        target["image"] = moved[self.target_key]
        return moved[self.input_key], target, (), {key: moved[key] for key in _NETWORK_KEYS if key in moved}
