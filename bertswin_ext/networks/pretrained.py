"""A pre-trained encoder into a network that is fine-tuned."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.utils import ensure_tuple_rep
from torch import nn

from bertswin_ext.errors import listed_under
from bertswin_ext.networks.architecture import Family, architecture_of, family_of, is_head, is_left_behind
from bertswin_ext.networks.bias_table import resize_bias_table
from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.encoder_fit import (
    input_faults,
    size_faults,
    stem_faults,
    stems_differ,
    window_faults,
    windows_differ,
)
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.networks.weight_report import WeightReport, compare_weights, refuse_poor_match

__all__ = ["load_pretrained"]

logger = logging.getLogger(__name__)

_Weights = dict[str, torch.Tensor]
_ADAPTER = ".parametrizations."
_REMEDIES: dict[Family, str] = {
    "BertsWin": "Fine-tune it with a BertsWinSegmenter (without the overlay vit_mae.json), or give a file of a ViTMAE.",
    "ViT": "Fine-tune it with a ViTSegmenter (the overlay vit_mae.json), or give a file of a BertsWinMAE.",
}


def load_pretrained(
    network: nn.Module,
    path: str | Path,
    spacing_mm: float | Sequence[float],
    min_match: float = 0.9,
    resize_window: bool = False,
    allow_fresh_stem: bool = False,
) -> WeightReport:
    """Fill the encoder of a network from a pre-trained one; everything under ``decoder.`` stays as it is.

    Takes a file of `save_encoder`, of `save_network`, or the plain ``model.pt`` of a bundle. Weights mean something
    only for the sizes, the voxels and the HU scale that they were learnt with, so the file is compared with the
    network and the configuration first, and refused with all the differences in words. The decoder and the mask token
    of the file are left behind without a word.

    Args:
        network: a `BertsWinSegmenter`, a `ViTSegmenter`, or another network with their names; LoRA is added after.
        path: the file.
        spacing_mm: edge of the voxels that the network will see, or one for every axis.
        min_match: least share of the encoder's tensors that must be filled.
        resize_window: interpolate the tables of position bias where the network's windows have another size.
        allow_fresh_stem: leave a stem of another kind than the file's at its initial values. The blocks have never
            seen the tokens of such a stem, so it must be trained, together with them or before.

    Returns:
        What matched; ``match`` is the share of the network's encoder tensors.

    Raises:
        ValueError: the file is unreadable, holds no encoder or one of another method, size, voxel or HU scale, or too
            little matches; the message says what to set.

    Example:
        >>> import tempfile
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> from bertswin_ext.networks.weights import save_encoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_encoder(bertswin_tiny(), f"{folder}/encoder.pt", spacing_mm=0.8)
        ...     report = load_pretrained(bertswin_tiny(), f"{folder}/encoder.pt", spacing_mm=0.8)
        >>> report.match
        1.0
    """
    source = _Source.read(path)
    own = {key: value for key, value in network.state_dict().items() if not is_head(key)}
    ours = architecture_of(own) | getattr(network, "arguments", {})
    _check_adapters(source, own)
    family = _checked_family(source, own, network)
    faults = [
        *size_faults(source.facts, ours, family),
        *window_faults(source.facts, ours, resize_window),
        *stem_faults(source.facts, ours, allow_fresh_stem),
        *input_faults(source.record, AdaptationRecord.of(network, spacing_mm)),
    ]
    if faults:
        raise ValueError(listed_under(f"The encoder of {path} does not fit", faults))
    weights = {key: value for key, value in source.weights.items() if key in own or not is_left_behind(key)}
    report = _fill(network, own, weights, source.facts, ours, what=f"Checkpoint {path}", min_match=min_match)
    _log(report, source)
    return report


@dataclass(frozen=True)
class _Source:
    """A file of weights and what is known of it."""

    path: str | Path
    weights: _Weights
    record: AdaptationRecord | None
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> _Source:
        """The tensors, the record if there is one, and how the encoder was built."""
        content = read_checkpoint(path)
        weights = tensors_of(content)
        record = AdaptationRecord.from_plain(content["record"], path) if "record" in content else None
        return cls(path, weights, record, architecture_of(weights) | (record.arguments if record else {}))


def _check_adapters(source: _Source, own: _Weights) -> None:
    """LoRA renames the weights that it adapts, so that nothing would match."""
    if any(_ADAPTER in key for key in source.weights):
        raise ValueError(
            f"{source.path} holds LoRA adapters. Fold them in with merge_lora and save the network again; a file of "
            "adapters alone is read by load_lora."
        )
    if any(_ADAPTER in key for key in own):
        raise ValueError("The network has LoRA adapters already. Call load_pretrained before add_lora.")


def _checked_family(source: _Source, own: _Weights, network: nn.Module) -> Family:
    """Weights of another method have other names and another meaning."""
    theirs, ours, name = family_of(source.weights), family_of(own), type(network).__name__
    if ours is None:
        raise ValueError(
            f"A {name} has no encoder that {source.path} could fill. Use a BertsWinSegmenter or a ViTSegmenter, or "
            "train without a pre-trained encoder."
        )
    if theirs is None:
        found = ", ".join(list(source.weights)[:3]) or "no tensors"
        raise ValueError(
            f"{source.path} holds no encoder of a BertsWinMAE or a ViTMAE, found {found}. Write one with "
            "bundles/pretrain/configs/export_encoder.json."
        )
    if theirs != ours:
        method = source.record.method if source.record else f"{theirs} network"
        raise ValueError(f"{source.path} holds the encoder of a {method}, the network is a {name}. {_REMEDIES[theirs]}")
    return ours


def _fill(
    network: nn.Module,
    own: _Weights,
    weights: _Weights,
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    what: str,
    min_match: float,
) -> WeightReport:
    """Put weights into a network that they fit, tables resized and a stem of another kind left out."""
    weights, resized = _with_windows(weights, theirs, ours)
    fresh = [key for key in own if key.startswith("stem.")] if stems_differ(theirs, ours) else []
    report = compare_weights(_without(weights, fresh), _without(own, fresh))
    matched = tuple(key for key in report.matched if key not in resized)
    report = replace(report, matched=matched, resized=resized, fresh=tuple(fresh))
    refuse_poor_match(report, min_match, what)
    network.load_state_dict({key: weights[key] for key in (*matched, *resized)}, strict=False)
    return report


def _with_windows(
    weights: _Weights, theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> tuple[_Weights, tuple[str, ...]]:
    """Weights with tables of position bias for the network's windows, and the names of the interpolated ones."""
    if not windows_differ(theirs, ours):
        return weights, ()
    windows = [ensure_tuple_rep(facts["window_size"], 3) for facts in (theirs, ours)]
    tables = [key for key in weights if key.endswith(".relative_position_bias_table")]
    return weights | {key: resize_bias_table(weights[key], *windows) for key in tables}, tuple(tables)


def _without(weights: _Weights, names: Sequence[str]) -> _Weights:
    """Tensors but for some."""
    return {key: value for key, value in weights.items() if key not in names}


def _log(report: WeightReport, source: _Source) -> None:
    """What was taken, and what nobody could check."""
    logger.info("%s", listed_under(f"encoder taken from {source.path}", report.lines()))
    if source.record is None:
        logger.warning(
            "%s has no record: its names and shapes fit, but the spacing and the HU statistics that it was learnt with "
            "could not be checked",
            source.path,
        )
    if report.fresh:
        logger.warning(
            "the stem starts from random weights: the encoder is of little use until the stem is trained. "
            "bundles/pretrain/configs/tune_stem.json trains one on the pre-trained encoder"
        )
