"""A masked autoencoder from one file: its sizes, its voxels and its HU scale stand in the file's record."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.networks.weights import load_encoder

__all__ = ["PretrainedAutoencoder", "load_autoencoder"]

_AXES = "RAS"
_ORIGIN = (
    "The demo's weights come with the bundle `inference` as models/pretrained/model.pt, the authors' with `python -m "
    "bertswin_ext import_weights FILE --bundle inference`; give any other file with --model_path."
)


@dataclass(frozen=True)
class PretrainedAutoencoder:
    """A pre-trained network and what it expects of its input.

    Attributes:
        network: the network, in evaluation mode.
        record: spacing, axes and HU scale that it learnt with.
        sha256: hash of the file.
    """

    network: BertsWinMAE
    record: AdaptationRecord
    sha256: str


def load_autoencoder(
    path: str | Path, decoder: bool = False, masking_ratio: float | None = None
) -> PretrainedAutoencoder:
    """Build the network of a file's record and fill it.

    Args:
        path: a file of `save_network`; of `save_encoder`, which has no decoder, if that is not asked for.
        decoder: the file must have the decoder, too.
        masking_ratio: share of the tokens to hide; None: as in pre-training.

    Raises:
        ValueError: there is no such file, it holds another network, has no record or, if that is asked for, no
            decoder; or the share leaves nothing visible.

    Example:
        >>> import tempfile
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> from bertswin_ext.networks.record import save_network
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record = AdaptationRecord.of(bertswin_tiny(), spacing_mm=0.8)
        ...     save_network(bertswin_tiny(), f"{folder}/model.pt", record)
        ...     load_autoencoder(f"{folder}/model.pt", decoder=True).record.spacing_mm
        (0.8, 0.8, 0.8)
    """
    if not Path(path).is_file():
        raise ValueError(f"There are no weights at {path}. {_ORIGIN}")
    content = read_checkpoint(path)
    record = _checked_record(content, path)
    network = load_encoder(path)
    if decoder:
        _check_decoder(set(tensors_of(content)), network, path)
    if masking_ratio is not None:
        network = _with_masking_ratio(network, masking_ratio)
    with Path(path).open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PretrainedAutoencoder(network.eval(), record, sha256)


def _checked_record(content: dict[str, object], path: str | Path) -> AdaptationRecord:
    """The record of a masked autoencoder that learnt on the axes that scans are brought to."""
    if "record" not in content:
        raise ValueError(
            f"{path} has no `record`, and nothing else tells the network's sizes, its voxels and its HU scale. Write "
            "the network again with `bertswin_ext.networks.save_network` and an AdaptationRecord."
        )
    record = AdaptationRecord.from_plain(content["record"], path)  # type: ignore[arg-type]
    if record.method != BertsWinMAE.__name__:
        raise ValueError(
            f"{path} holds the weights of a {record.method}; features and reconstructions need the BertsWinMAE of a "
            f"pre-training. {_ORIGIN}"
        )
    if record.axes != _AXES:
        raise ValueError(f"The network of {path} learnt on {record.axes} axes; scans are brought to {_AXES} only.")
    return record


def _check_decoder(names: set[str], network: BertsWinMAE, path: str | Path) -> None:
    """A fresh decoder reconstructs nothing."""
    lacking = [name for name in network.state_dict() if name.startswith("decoder.") and name not in names]
    if lacking:
        raise ValueError(
            f"{path} has an encoder but no decoder ({lacking[0]} and others are missing), so it cannot reconstruct. "
            "It is good for features.json; here give a file with the whole network, written by `save_network`."
        )


def _with_masking_ratio(network: BertsWinMAE, masking_ratio: float) -> BertsWinMAE:
    """The same network, which hides another share."""
    other = BertsWinMAE(**network.arguments | {"masking_ratio": masking_ratio})
    other.load_state_dict(network.state_dict())
    return other
