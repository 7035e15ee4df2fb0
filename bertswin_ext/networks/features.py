"""The encoder alone, with one tensor in and one out: what export and MONAI's checks want."""

from __future__ import annotations

import torch
from torch import nn

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE

__all__ = ["BertsWinFeatures"]


class BertsWinFeatures(nn.Module):
    """Features of a pre-trained network as a plain tensor.

    Args:
        network: the masked autoencoder; its weights are shared, not copied.
        per_patch: run the stem patch by patch, as in pre-training. False convolves it over the whole volume, which
            an overlapping stem has to be tuned for.
    """

    def __init__(self, network: BertsWinMAE, per_patch: bool = True) -> None:
        super().__init__()
        self.network = network
        self.per_patch = per_patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes (b, c, i, j, k), sizes divisible by the patch size, to features (b, h, gi, gj, gk)."""
        return self.network.encode_patches(x) if self.per_patch else self.network.forward_features(x)
