"""Named sizes of the networks."""

from __future__ import annotations

from typing import Any

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.segmenter import BertsWinSegmenter

__all__ = ["bertswin_base", "bertswin_segmenter_base", "bertswin_segmenter_tiny", "bertswin_tiny"]


_TINY: dict[str, Any] = {
    "img_size": 48,
    "patch_size": 8,
    "hidden_size": 96,
    "num_layers": 4,
    "num_heads": 4,
    "window_size": 3,
    "stem_channels": 16,
}


def bertswin_base(**overrides: Any) -> BertsWinMAE:
    """The paper's network: cube 224, patch 16, 12 blocks of width 768, window 7.

    Args:
        **overrides: arguments of `BertsWinMAE` that should differ.
    """
    return BertsWinMAE(**{"img_size": 224} | overrides)


def bertswin_tiny(**overrides: Any) -> BertsWinMAE:
    """A network that learns on two CPU cores: cube 48, patch 8, 4 blocks of width 96, window 3.

    Args:
        **overrides: arguments of `BertsWinMAE` that should differ.
    """
    return BertsWinMAE(**_TINY | {"decoder_hidden_size": 128} | overrides)


def bertswin_segmenter_base(**overrides: Any) -> BertsWinSegmenter:
    """Segmenter on the encoder of `bertswin_base`, three classes, full-resolution decoder.

    Args:
        **overrides: arguments of `BertsWinSegmenter` that should differ.
    """
    return BertsWinSegmenter(**{"img_size": 224} | overrides)


def bertswin_segmenter_tiny(**overrides: Any) -> BertsWinSegmenter:
    """Segmenter on the encoder of `bertswin_tiny`, three classes, full-resolution decoder.

    Args:
        **overrides: arguments of `BertsWinSegmenter` that should differ.
    """
    return BertsWinSegmenter(**_TINY | overrides)
