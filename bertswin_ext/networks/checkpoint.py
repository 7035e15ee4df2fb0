"""Files of weights, read without running code from them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_checkpoint", "tensors_of"]

_WRAPPERS = ("model_state_dict", "state_dict", "model", "network")
_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file of tensors without running code from it.

    Args:
        path: a file written by ``torch.save``.

    Returns:
        Its content, on the CPU.

    Raises:
        ValueError: the file is missing, torn, not a checkpoint, or holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise ValueError(f"Checkpoint {path} does not exist. Check the path.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        # torch's own words advise to load it all the same
        is_code = isinstance(error, pickle.UnpicklingError)
        reason = "it holds what could run code." if is_code else str(error).strip().split("\n")[0]
        raise ValueError(
            f"Checkpoint {path} cannot be read: {reason} It is torn, no checkpoint, or holds other things than "
            "tensors. Copy it again, or save only the state dict."
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"Checkpoint {path} must hold a dictionary, found {type(content).__name__}.")
    return dict(content)


def tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, without wrapper or prefixes.

    Args:
        checkpoint: a state dict, bare or under ``model``, ``network``, ``state_dict`` or ``model_state_dict``, with or
            without the prefixes ``module.`` and ``_orig_mod.``.

    Example:
        >>> tensors_of({"model": {"module.weight": torch.zeros(1)}, "epoch": 3})
        {'weight': tensor([0.])}
    """
    for wrapper in _WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, Mapping):
            checkpoint = inner
            break
    return {_PREFIX.sub("", key): value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}
