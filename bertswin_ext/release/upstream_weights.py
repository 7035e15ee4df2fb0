"""The authors' published weights as a file of this package."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertswin_ext.errors import listed_under
from bertswin_ext.networks.architecture import architecture_of, family_of
from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.weight_report import WeightReport, refuse_poor_match
from bertswin_ext.networks.weights import AxisOrder, convert_upstream_state_dict
from bertswin_ext.runs.publish import publish_model

__all__ = ["import_upstream_weights", "network_of_upstream", "place_of_weights"]

logger = logging.getLogger(__name__)

_POSITIONS = "pos_embed"
_SIZES = (
    "in_channels",
    "patch_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "window_size",
    "stem_channels",
    "stem",
    "img_size",
    "decoder_hidden_size",
)
# where a bundle reads a masked autoencoder, by the end of its folder's name
_PLACES = {"pretrain": "models/model.pt", "inference": "models/pretrained/model.pt"}


def import_upstream_weights(
    path: str | Path, target: str | Path, spacing_mm: float | Sequence[float] = 0.2, axes: AxisOrder = "zyx"
) -> WeightReport:
    """Write a checkpoint of the authors' code as weights of a `BertsWinMAE` with their record.

    Arrays are brought from (z, y, x) to (i, j, k). Weights that are replaced stay beside the new ones.

    Args:
        path: the authors' checkpoint.
        target: file to write.
        spacing_mm: edge of the voxels that they were trained on, or one for every axis.
        axes: order of the arrays in training, as for `convert_upstream_state_dict`.

    Returns:
        What matched: every tensor of the network.

    Raises:
        ValueError: the file is torn, holds more than tensors, or is not a whole masked autoencoder of the authors.
    """
    network, report = network_of_upstream(path, axes)
    record = AdaptationRecord.of(network, spacing_mm)
    logger.info("%s", listed_under(str(path), report.lines()))
    with tempfile.TemporaryDirectory() as folder:
        save_network(network, Path(folder) / "model.pt", record)
        publish_model(Path(folder) / "model.pt", target)
    return report


def network_of_upstream(path: str | Path, axes: AxisOrder = "zyx") -> tuple[BertsWinMAE, WeightReport]:
    """Build the network that a checkpoint of the authors' code fills, its sizes read off the tensors, and fill it.

    Args:
        path: the checkpoint.
        axes: order of its arrays, see `convert_upstream_state_dict`.

    Returns:
        The network and what matched.

    Raises:
        ValueError: as in `import_upstream_weights`.
    """
    content = read_checkpoint(path)
    _check_is_upstream(content, path)
    # the sizes are known only under our names, so the first conversion is for no network in particular
    converted, _ = convert_upstream_state_dict(content, nn.Identity(), axes, min_match=0.0)
    network = BertsWinMAE(**_arguments(converted, tensors_of(content), path))
    weights, report = convert_upstream_state_dict(content, network, axes, min_match=0.0)
    refuse_poor_match(report, 1.0, f"Checkpoint {path}")
    if report.unexpected:
        raise ValueError(f"Checkpoint {path} has more than a BertsWinMAE: {report}. {_WANTED}")
    network.load_state_dict(weights)
    return network, report


def place_of_weights(bundle: str | Path) -> Path:
    """Where a bundle reads a masked autoencoder.

    Args:
        bundle: a bundle's folder, or its name in ``bundles``.

    Raises:
        ValueError: there is no such bundle, or it reads none.

    Example:
        >>> place_of_weights("nowhere")
        Traceback (most recent call last):
        ...
        ValueError: `bundle` must be pretrain, inference or the folder of either, found no bundles/nowhere.
    """
    folder = Path(bundle) if Path(bundle).is_dir() else Path("bundles") / bundle
    if not (folder / "configs" / "metadata.json").is_file():
        raise ValueError(f"`bundle` must be pretrain, inference or the folder of either, found no {folder}.")
    name = folder.resolve().name
    places = [place for end, place in _PLACES.items() if name.endswith(end)]
    if not places:
        raise ValueError(
            f"`bundle` must be pretrain or inference, got {name}: no other reads a masked autoencoder. To fine-tune "
            "one, import it to pretrain and give its file as `--encoder_path`."
        )
    return folder / places[0]


_WANTED = (
    "Give the masked autoencoder that the authors of BertsWin published (Zenodo, 10.5281/zenodo.17916932), as it is."
)


def _check_is_upstream(content: Mapping[str, Any], path: str | Path) -> None:
    """Raise if a checkpoint is another network's, or one of this package."""
    tensors = tensors_of(content)
    if "record" in content or family_of(tensors) is not None:
        raise ValueError(f"{path} is no file of the authors: it has the names of this package. Use it as it is.")
    if _POSITIONS not in tensors or not any(key.startswith("features.0.") for key in tensors):
        found = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ValueError(f"{path} holds no BertsWin network of the authors, found {found}. {_WANTED}")


def _arguments(
    weights: Mapping[str, torch.Tensor], upstream: Mapping[str, torch.Tensor], path: str | Path
) -> dict[str, Any]:
    """Arguments of the network, read off the shapes; the rest are defaults."""
    sizes = architecture_of(weights)
    embedding, positions = weights.get("decoder.embed.weight"), upstream[_POSITIONS]
    if embedding is not None:
        sizes["decoder_hidden_size"] = embedding.shape[0]
    edge = round(positions.shape[-2] ** (1 / 3)) if positions.ndim == 3 else 0
    if edge and edge**3 == positions.shape[-2] and "patch_size" in sizes:
        sizes["img_size"] = edge * sizes["patch_size"]
    lacking = [name for name in _SIZES if sizes.get(name) is None]
    if lacking:
        raise ValueError(f"{path} does not tell the network's {', '.join(lacking)}. {_WANTED}")
    return {name: sizes[name] for name in _SIZES}
