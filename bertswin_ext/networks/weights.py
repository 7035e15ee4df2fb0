"""Weights in and out: the authors' checkpoints, axis order, and a report of what matched."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bertswin_ext.files import written_whole
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.voxels import VOXELS

__all__ = [
    "WeightReport",
    "convert_upstream_state_dict",
    "load_encoder",
    "load_weights",
    "read_checkpoint",
    "save_encoder",
]

logger = logging.getLogger(__name__)

AxisOrder = Literal["zyx", "ijk"]

_WRAPPERS = ("model_state_dict", "state_dict", "model", "network")
_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")
_DERIVED = re.compile(r"(^pos_embed$|\.relative_position_index$)")
_RENAMES = (
    (re.compile(r"^mask_token_enc$"), "mask_token"),
    (re.compile(r"^features\.0\.(\d+)\."), r"encoder.blocks.\1."),
    (re.compile(r"\.mlp\.0\."), ".mlp.linear1."),
    (re.compile(r"\.mlp\.3\."), ".mlp.linear2."),
    (re.compile(r"^decoder_embed\."), "decoder.embed."),
    (re.compile(r"^decoder_head\."), "decoder.head."),
)
_STEM_KEY = re.compile(r"^patch_embed\.(\d+)\.")
_LAYERS_PER_STAGE = 3


@dataclass(frozen=True)
class WeightReport:
    """What became of the tensors of a checkpoint.

    Attributes:
        matched: names found on both sides with the same shape.
        missing: names of the network that the checkpoint lacks.
        unexpected: names of the checkpoint that the network lacks.
        mismatched: names found on both sides, with both shapes spelled out.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def match(self) -> float:
        """Share of the network's tensors that the checkpoint fills."""
        return len(self.matched) / max(1, len(self.matched) + len(self.missing) + len(self.mismatched))

    def __str__(self) -> str:
        """One line per kind, long lists cut."""
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        lines = [f"{len(self.matched)} of the network's {total} tensors matched"]
        for kind in ("missing", "unexpected", "mismatched"):
            names = getattr(self, kind)
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"{len(names)} {kind}: {', '.join(names[:5])}{more}")
        return "; ".join(lines)


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
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"Checkpoint {path} cannot be read: {reason} It is torn, no checkpoint, or holds other things than "
            "tensors. Copy it again, or save only the state dict."
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"Checkpoint {path} must hold a dictionary, found {type(content).__name__}.")
    return dict(content)


def convert_upstream_state_dict(
    checkpoint: Mapping[str, Any], network: nn.Module, axes: AxisOrder = "zyx", min_match: float = 0.95
) -> tuple[dict[str, torch.Tensor], WeightReport]:
    """Translate a checkpoint of the authors' code into the names and axes of `BertsWinMAE`.

    The authors' arrays are (z, y, x); ours are (i, j, k) = (x, y, z). Reversing the axes of a network means: kernels
    and relative position tables are transposed, and - since the positions of i and k swap their thirds of the
    channels - so are the first and last third of the hidden channels everywhere. The converted network then gives
    exactly the transposed output for the transposed input. Directions are not touched: whether an axis runs left
    to right or right to left is a matter of the data.

    Args:
        checkpoint: a state dict, bare or under ``model_state_dict``, with or without the prefixes ``module.`` and
            ``_orig_mod.``.
        network: the network to fill; only its names and shapes are read.
        axes: ``"zyx"`` for the published weights; ``"ijk"`` keeps the arrays' order.
        min_match: least share of the network's tensors that must be filled.

    Returns:
        The converted state dict and the report.

    Raises:
        ValueError: ``axes`` is unknown, or too little matches; the message carries the report.
    """
    if axes not in ("zyx", "ijk"):
        raise ValueError(f"`axes` must be 'zyx' or 'ijk', got {axes!r}.")
    upstream = _unwrap(checkpoint)
    num_stages = (max(_stem_layers(upstream), default=0)) // _LAYERS_PER_STAGE
    converted = {_rename(key, num_stages): value for key, value in upstream.items() if not _DERIVED.search(key)}
    if axes == "zyx":
        converted = {key: _reverse_axes(key, value) for key, value in converted.items()}
    report = _compare(converted, network)
    _refuse_poor_match(report, min_match, "The checkpoint")
    return converted, report


def load_weights(network: nn.Module, path: str | Path, min_match: float = 1.0) -> WeightReport:
    """Fill a network from a checkpoint file: a state dict, or one wrapped under ``model``.

    Args:
        network: the network to fill.
        path: a file written by ``torch.save``.
        min_match: least share of the network's tensors that must be filled.

    Returns:
        What matched.

    Raises:
        ValueError: the file is unreadable, or too little matches.
    """
    state_dict = _unwrap(read_checkpoint(path))
    report = _compare(state_dict, network)
    _refuse_poor_match(report, min_match, f"Checkpoint {path}")
    network.load_state_dict({key: state_dict[key] for key in report.matched}, strict=False)
    logger.info("%s: %s", path, report)
    return report


def save_encoder(network: BertsWinMAE, path: str | Path, spacing_mm: float | Sequence[float]) -> None:
    """Write everything of a network but its decoder, with a record of what the weights expect of their input.

    Args:
        network: the pre-trained network.
        path: file to write: ``model``, a state dict, and ``record``, plain values.
        spacing_mm: edge of the voxels it was trained on.

    Raises:
        ValueError: the network is not a `BertsWinMAE`.
    """
    if not isinstance(network, BertsWinMAE):
        raise ValueError(f"Only a BertsWinMAE has an encoder to export, got {type(network).__name__}.")
    state_dict = {key: value.cpu() for key, value in network.state_dict().items() if not key.startswith("decoder.")}
    record = {
        "arguments": network.arguments,
        "axes": "RAS",
        "spacing_mm": list(spacing_mm) if isinstance(spacing_mm, Sequence) else [float(spacing_mm)] * 3,
        "min_hu": VOXELS.min_hu,
        "max_hu": VOXELS.max_hu,
        "mean_hu": VOXELS.mean_hu,
        "std_hu": VOXELS.std_hu,
    }
    with written_whole(path) as temporary:
        torch.save({"model": state_dict, "record": record}, temporary)
    logger.info("encoder of %d tensors written to %s", len(state_dict), path)


def load_encoder(path: str | Path) -> BertsWinMAE:
    """Build the network of an exported encoder and fill it; its decoder is fresh.

    Args:
        path: a file written by `save_encoder`.

    Returns:
        The network.

    Raises:
        ValueError: the file is unreadable, or is no exported encoder.
    """
    content = read_checkpoint(path)
    if "record" not in content:
        raise ValueError(f"{path} is no exported encoder: it has no `record`. Write one with export_encoder.json.")
    network = BertsWinMAE(**content["record"]["arguments"])
    report = _compare(_unwrap(content), network)
    lacking = [key for key in report.missing if not key.startswith("decoder.")]
    if lacking or report.mismatched:
        raise ValueError(f"{path} does not fit the network of its own record: {report}. Export it again.")
    network.load_state_dict(content["model"], strict=False)
    return network


def _unwrap(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors themselves, without wrapper or prefixes."""
    for wrapper in _WRAPPERS:
        inner = checkpoint.get(wrapper)
        if isinstance(inner, Mapping):
            checkpoint = inner
            break
    return {_PREFIX.sub("", key): value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}


def _stem_layers(keys: Iterable[str]) -> list[int]:
    """Indices of the stem's layers; the last one is the projection."""
    matches = (_STEM_KEY.match(key) for key in keys)
    return [int(match[1]) for match in matches if match]


def _rename(key: str, num_stages: int) -> str:
    """Our name of an upstream tensor."""
    match = _STEM_KEY.match(key)
    if match:
        stage, layer = divmod(int(match[1]), _LAYERS_PER_STAGE)
        place = "projection" if stage == num_stages else f"stages.{stage}.{layer}"
        return _STEM_KEY.sub(f"stem.{place}.", key)
    for pattern, replacement in _RENAMES:
        key = pattern.sub(replacement, key)
    return key


def _reverse_axes(key: str, value: torch.Tensor) -> torch.Tensor:
    """One tensor of the network whose three axes are reversed."""
    if value.ndim == 5:
        value = value.permute(0, 1, 4, 3, 2)
    if key.endswith("relative_position_bias_table"):
        return _reverse_table(value)
    if _writes_hidden(key):
        value = _swap_thirds(value, 0)
    if key == "mask_token" or _reads_hidden(key):
        value = _swap_thirds(value, 2 if key == "mask_token" else 1)
    return value.contiguous()


def _writes_hidden(key: str) -> bool:
    """Whether dimension 0 of a tensor runs over the hidden channels."""
    return bool(re.search(r"(stem\.projection|norm[12]|attn\.proj|mlp\.linear2)\.(weight|bias)$", key))


def _reads_hidden(key: str) -> bool:
    """Whether dimension 1 of a tensor runs over the hidden channels."""
    return bool(re.search(r"(attn\.qkv|mlp\.linear1|decoder\.embed)\.weight$", key))


def _swap_thirds(value: torch.Tensor, dim: int) -> torch.Tensor:
    """Exchange the first and the last third of a dimension: the channels of axes i and k."""
    first, second, third = value.chunk(3, dim)
    return torch.cat([third, second, first], dim)


def _reverse_table(table: torch.Tensor) -> torch.Tensor:
    """Bias table of a cubic window with its axes reversed."""
    span = round(len(table) ** (1 / 3))
    if span**3 != len(table):
        raise ValueError(
            f"Axes can only be reversed for a cubic window, the bias table has {len(table)} rows. Use axes='ijk'."
        )
    return table.unflatten(0, (span, span, span)).permute(2, 1, 0, 3).flatten(0, 2).contiguous()


def _compare(state_dict: Mapping[str, torch.Tensor], network: nn.Module) -> WeightReport:
    """Match names and shapes."""
    own = network.state_dict()
    both = [key for key in own if key in state_dict]
    matched = [key for key in both if own[key].shape == state_dict[key].shape]
    mismatched = [
        f"{key} {tuple(state_dict[key].shape)} instead of {tuple(own[key].shape)}"
        for key in both
        if own[key].shape != state_dict[key].shape
    ]
    missing = [key for key in own if key not in state_dict]
    unexpected = [key for key in state_dict if key not in own]
    return WeightReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(mismatched))


def _refuse_poor_match(report: WeightReport, min_match: float, what: str) -> None:
    """Weights that do not belong to the network would leave random layers behind."""
    if report.match < min_match:
        raise ValueError(
            f"{what} does not fit the network: {report}. At least {min_match:.0%} must match. "
            "Build the network with the checkpoint's sizes."
        )
