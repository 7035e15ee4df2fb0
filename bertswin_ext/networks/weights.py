"""Weights in and out: the authors' checkpoints and their axis order, whole networks, exported encoders."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bertswin_ext.errors import listed_under
from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord, plain_size, save_weights
from bertswin_ext.networks.vit_mae import ViTMAE
from bertswin_ext.networks.weight_report import WeightReport, compare_weights, refuse_poor_match

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

# MONAI's mask tokens are of the decoder's width; ours are what the encoder sees
_DECODER = re.compile(r"decoder[._]|mask_tokens$")
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
# what weights do not depend on
_FREE_ARGUMENTS = ("dropout", "mask_token_updates")


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
    upstream = tensors_of(checkpoint)
    num_stages = (max(_stem_layers(upstream), default=0)) // _LAYERS_PER_STAGE
    converted = {_rename(key, num_stages): value for key, value in upstream.items() if not _DERIVED.search(key)}
    if axes == "zyx":
        converted = {key: _reverse_axes(key, value) for key, value in converted.items()}
    report = compare_weights(converted, network.state_dict())
    refuse_poor_match(report, min_match, "The checkpoint")
    return converted, report


def load_weights(
    network: nn.Module, path: str | Path, min_match: float = 1.0, record: AdaptationRecord | None = None
) -> WeightReport:
    """Fill a network from a checkpoint file: a state dict, or one wrapped under ``model``.

    Args:
        network: the network to fill.
        path: a file written by ``torch.save``.
        min_match: least share of the network's tensors that must be filled.
        record: what the configuration gives the network; compared with the file's record where there is one.

    Returns:
        What matched.

    Raises:
        ValueError: the file is unreadable, too little matches, or its record differs from ``record``.
    """
    content = read_checkpoint(path)
    if record is not None and "record" in content:
        _check_record(AdaptationRecord.from_plain(content["record"], path), record, path)
    state_dict = tensors_of(content)
    report = compare_weights(state_dict, network.state_dict())
    refuse_poor_match(report, min_match, f"Checkpoint {path}")
    network.load_state_dict({key: state_dict[key] for key in report.matched}, strict=False)
    logger.info("%s: %s", path, report)
    return report


def save_encoder(network: BertsWinMAE | ViTMAE, path: str | Path, spacing_mm: float | Sequence[float]) -> None:
    """Write everything of a network but its decoder, with a record of what the weights expect of their input.

    Args:
        network: the pre-trained network.
        path: file to write: ``model``, a state dict, and ``record``, plain values.
        spacing_mm: edge of the voxels it was trained on.

    Raises:
        ValueError: the network is neither a `BertsWinMAE` nor a `ViTMAE`.
    """
    if not isinstance(network, BertsWinMAE | ViTMAE):
        raise ValueError(f"Only a BertsWinMAE or a ViTMAE has an encoder to export, got {type(network).__name__}.")
    encoder = {key: value for key, value in network.state_dict().items() if not _DECODER.match(key)}
    save_weights(encoder, path, AdaptationRecord.of(network, spacing_mm))


def load_encoder(path: str | Path) -> BertsWinMAE:
    """Build the network of an exported encoder and fill it; its decoder is fresh.

    Args:
        path: a file written by `save_encoder`.

    Returns:
        The network.

    Raises:
        ValueError: the file is unreadable, or is no exported encoder of a `BertsWinMAE`.
    """
    content = read_checkpoint(path)
    if "record" not in content:
        raise ValueError(f"{path} is no exported encoder: it has no `record`. Write one with export_encoder.json.")
    record = AdaptationRecord.from_plain(content["record"], path)
    if record.method != BertsWinMAE.__name__:
        raise ValueError(
            f"{path} holds the weights of a {record.method}, not the encoder of a BertsWinMAE. Build a network for it "
            "and fill that with load_pretrained or load_weights."
        )
    network, weights = BertsWinMAE(**record.arguments), tensors_of(content)
    report = compare_weights(weights, network.state_dict())
    lacking = [key for key in report.missing if not _DECODER.match(key)]
    if lacking or report.mismatched:
        raise ValueError(f"{path} does not fit the network of its own record: {report}. Export it again.")
    network.load_state_dict(weights, strict=False)
    return network


def _check_record(theirs: AdaptationRecord, ours: AdaptationRecord, path: str | Path) -> None:
    """Weights are worth nothing on voxels, values or classes that they did not learn, nor in another network."""
    faults = [*_other_network(theirs, ours), *theirs.differences(ours)]
    if theirs.labels is not None and ours.labels is not None and theirs.labels != ours.labels:
        found, wanted = ", ".join(theirs.labels), ", ".join(ours.labels)
        faults.append(f"labels: the network learnt {found}, the configuration has {wanted}")
    if faults:
        remedy = "Use the configuration that the weights were trained with, or train again."
        raise ValueError(listed_under(f"The weights of {path} do not fit the configuration. {remedy} Found", faults))


def _other_network(theirs: AdaptationRecord, ours: AdaptationRecord) -> list[str]:
    """Where two networks are not the same; some differences do not show in the shapes of weights."""
    if theirs.method != ours.method:
        return [f"network: the weights are those of a {theirs.method}, the configuration has a {ours.method}"]
    if not (theirs.arguments and ours.arguments):
        return []
    names = [name for name in theirs.arguments if name in ours.arguments and name not in _FREE_ARGUMENTS]
    pairs = {name: (plain_size(theirs.arguments[name]), plain_size(ours.arguments[name])) for name in names}
    return [f"{name}: the weights have {a}, the configuration {b}" for name, (a, b) in pairs.items() if a != b]


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
