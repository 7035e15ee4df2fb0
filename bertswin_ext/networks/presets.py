"""Named sizes of the network."""

from __future__ import annotations

from typing import Any

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE

__all__ = ["bertswin_base", "bertswin_tiny"]


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
    tiny: dict[str, Any] = {
        "img_size": 48,
        "patch_size": 8,
        "hidden_size": 96,
        "num_layers": 4,
        "num_heads": 4,
        "window_size": 3,
        "decoder_hidden_size": 128,
        "stem_channels": 16,
    }
    return BertsWinMAE(**tiny | overrides)
