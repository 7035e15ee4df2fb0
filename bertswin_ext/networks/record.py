"""The adaptation record: what weights expect of their input, kept in the same file."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertswin_ext.errors import times
from bertswin_ext.files import written_whole
from bertswin_ext.networks.checkpoint import read_checkpoint
from bertswin_ext.networks.lora import merged_state_dict
from bertswin_ext.voxels import VOXELS

__all__ = ["AdaptationRecord", "plain_size", "read_record", "save_network", "save_weights", "spacing_in_words"]

logger = logging.getLogger(__name__)

_AXES = "RAS"
_HU_FIELDS = ("min_hu", "max_hu", "mean_hu", "std_hu")
_REQUIRED = ("arguments", "axes", "spacing_mm", *_HU_FIELDS)
_FIRST_METHOD = "BertsWinMAE"
_SAME_SPACING = 1e-3


@dataclass(frozen=True)
class AdaptationRecord:
    """What weights expect of their input, and how the network that they fill is built.

    Attributes:
        method: class of the network: ``"BertsWinMAE"``, ``"ViTMAE"``, ``"BertsWinSegmenter"``, ...
        arguments: what that class was built with; empty for a network that does not keep it.
        axes: orientation of the arrays.
        spacing_mm: edges of a voxel along (i, j, k).
        min_hu: values below were clipped.
        max_hu: values above were clipped.
        mean_hu: was subtracted after clipping.
        std_hu: was the divisor after that.
        labels: names of the output channels, for a network that segments.

    Example:
        >>> learnt = AdaptationRecord("BertsWinMAE", {}, "RAS", (0.2, 0.2, 0.2))
        >>> learnt.differences(AdaptationRecord("BertsWinSegmenter", {}, "RAS", (0.8, 0.8, 0.8)))
        ['spacing_mm: the encoder learnt at 0.2 mm, the configuration has 0.8 mm']
    """

    method: str
    arguments: dict[str, Any]
    axes: str
    spacing_mm: tuple[float, float, float]
    min_hu: float = VOXELS.min_hu
    max_hu: float = VOXELS.max_hu
    mean_hu: float = VOXELS.mean_hu
    std_hu: float = VOXELS.std_hu
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, network: nn.Module, spacing_mm: float | Sequence[float], labels: Sequence[str] | None = None
    ) -> AdaptationRecord:
        """The record of a network in this version's voxel contract.

        Args:
            network: its class and its ``arguments`` are recorded.
            spacing_mm: edge of its voxels, or one for every axis.
            labels: names of its output channels.

        Raises:
            ValueError: the spacing is not one or three positive numbers.
        """
        arguments = dict(getattr(network, "arguments", {}))
        names = None if labels is None else tuple(labels)
        return cls(type(network).__name__, arguments, _AXES, _checked_spacing(spacing_mm, "`spacing_mm`"), labels=names)

    def to_plain(self) -> dict[str, Any]:
        """Plain values, for a file that loads without running code."""
        labels = None if self.labels is None else list(self.labels)
        return asdict(self) | {"spacing_mm": list(self.spacing_mm), "labels": labels}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], source: str | Path) -> AdaptationRecord:
        """The record of a file; one without ``method`` is that of a `BertsWinMAE`.

        Args:
            plain: what `to_plain` gave.
            source: the file, for messages.

        Raises:
            ValueError: an entry is lacking or of another kind.
        """
        if not isinstance(plain, Mapping):
            raise ValueError(f"The record of {source} must be a dictionary, found {type(plain).__name__}. {_AGAIN}")
        lacking = [name for name in _REQUIRED if name not in plain]
        if lacking:
            raise ValueError(f"The record of {source} lacks {', '.join(lacking)}. {_AGAIN}")
        bad = [name for name in _HU_FIELDS if not _is_number(plain[name])]
        if bad or not isinstance(plain["arguments"], Mapping):
            raise ValueError(f"The record of {source} has a wrong {(bad or ['arguments'])[0]}. {_AGAIN}")
        labels = plain.get("labels")
        return cls(
            method=str(plain.get("method", _FIRST_METHOD)),
            arguments=dict(plain["arguments"]),
            axes=str(plain["axes"]),
            spacing_mm=_checked_spacing(plain["spacing_mm"], f"`spacing_mm` in the record of {source}"),
            labels=None if labels is None else tuple(labels),
            **{name: float(plain[name]) for name in _HU_FIELDS},
        )

    def differences(self, other: AdaptationRecord) -> list[str]:
        """Where the input that an encoder learnt on differs from a configuration's, in words.

        Sizes of the network are not compared here, nor is the class.

        Args:
            other: the configuration's record.
        """
        found = []
        if self.axes != other.axes:
            found.append(f"axes: the encoder learnt on {self.axes}, the configuration has {other.axes}")
        if not _same_spacing(self.spacing_mm, other.spacing_mm):
            learnt, given = spacing_in_words(self.spacing_mm), spacing_in_words(other.spacing_mm)
            found.append(f"spacing_mm: the encoder learnt at {learnt}, the configuration has {given}")
        for name in _HU_FIELDS:
            learnt_hu, given_hu = getattr(self, name), getattr(other, name)
            if learnt_hu != given_hu:
                found.append(f"{name}: the encoder learnt with {learnt_hu:g} HU, the configuration has {given_hu:g} HU")
        return found


_AGAIN = "It was not written by save_encoder or save_network; write the file again with one of them."


def save_network(network: nn.Module, path: str | Path, record: AdaptationRecord) -> None:
    """Write all weights of a network with their record, LoRA adapters folded in.

    Args:
        network: the network, not wrapped in `DistributedDataParallel`; it is not changed.
        path: file to write: ``model``, a flat state dict, and ``record``, plain values; ``torch.load`` reads it with
            ``weights_only=True``.
        record: what the weights expect of their input.
    """
    save_weights(merged_state_dict(network), path, record)


def save_weights(weights: Mapping[str, torch.Tensor], path: str | Path, record: AdaptationRecord) -> None:
    """Write tensors with a record, whole or not at all."""
    content = {"model": {key: value.cpu() for key, value in weights.items()}, "record": record.to_plain()}
    # into an open file: given a path, torch would put the temporary name into the bytes
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    logger.info("%d tensors of a %s written to %s", len(weights), record.method, path)


def read_record(path: str | Path) -> AdaptationRecord:
    """The record of a file of weights.

    Args:
        path: a file written by `save_network` or `save_encoder`.

    Raises:
        ValueError: the file is unreadable, or has no record.
    """
    content = read_checkpoint(path)
    if "record" not in content:
        raise ValueError(f"{path} has no `record`. {_AGAIN}")
    return AdaptationRecord.from_plain(content["record"], path)


def plain_size(value: Any) -> Any:
    """A size as it is compared and shown: one number where the axes agree; other values as they are.

    Example:
        >>> plain_size([7, 7, 7]), plain_size((7, 7, 5)), plain_size("unetr")
        (7, (7, 7, 5), 'unetr')
    """
    if not isinstance(value, list | tuple):
        return value
    return value[0] if len(set(value)) == 1 else tuple(value)


def spacing_in_words(spacing_mm: Sequence[float]) -> str:
    """A spacing as short as it can be said.

    Example:
        >>> spacing_in_words((0.2, 0.2, 0.2)), spacing_in_words((0.2, 0.2, 0.5))
        ('0.2 mm', '0.2 x 0.2 x 0.5 mm')
    """
    return f"{times(spacing_mm if len(set(spacing_mm)) > 1 else spacing_mm[:1])} mm"


def _checked_spacing(spacing_mm: Any, what: str) -> tuple[float, float, float]:
    """One edge for every axis."""
    edges = spacing_mm if isinstance(spacing_mm, list | tuple) else [spacing_mm]
    if len(edges) not in (1, 3) or not all(_is_number(edge) and edge > 0 for edge in edges):
        raise ValueError(f"{what} must be one or three positive numbers of millimetres, got {spacing_mm!r}.")
    i, j, k = edges * (3 // len(edges))
    return float(i), float(j), float(k)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _same_spacing(one: Sequence[float], other: Sequence[float]) -> bool:
    """Equal but for rounding."""
    return all(math.isclose(a, b, rel_tol=_SAME_SPACING) for a, b in zip(one, other, strict=True))
