"""What a masked autoencoder is asked about cubes: their features, or what it makes of them when most is hidden."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE

__all__ = ["EncodingInferer", "MaskingInferer"]


class EncodingInferer(Inferer):  # type: ignore[misc]
    """Features of cubes with nothing hidden.

    Args:
        per_patch: run the stem patch by patch, as in pre-training; tokens outside the scan are then mask tokens, which
            the encoder knows. False convolves an overlapping stem over the whole cube: for one that was tuned for it.
            For a non-overlapping stem it makes no other difference.

    Shape:
        Cubes are (b, 1, i, j, k), features (b, h, gi, gj, gk).

    Example:
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> EncodingInferer()(torch.zeros(1, 1, 48, 48, 48), bertswin_tiny()).shape
        torch.Size([1, 96, 6, 6, 6])
    """

    def __init__(self, per_patch: bool = True) -> None:
        super().__init__()
        self.per_patch = per_patch

    def __call__(self, inputs: Tensor, network: BertsWinMAE, valid: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Encode cubes; ``valid`` is (b, n) bool, the tokens in the scan."""
        return network.encode_patches(inputs, valid) if self.per_patch else network.forward_features(inputs)


class MaskingInferer(Inferer):  # type: ignore[misc]
    """Reconstructions of a cube under several masks, which are the same for every cube that lies in its scan.

    Args:
        num_masks: masks, one after the other.
        seed: of the first mask; the others follow.

    Shape:
        A cube is (1, 1, i, j, k); the result has ``reconstruction`` (m, 1, i, j, k) and ``masked`` (m, n) bool.

    Raises:
        ValueError: there is no mask, or the seed is negative.

    Example:
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> result = MaskingInferer(num_masks=2)(torch.zeros(1, 1, 48, 48, 48), bertswin_tiny())
        >>> result["masked"].sum(dim=1).tolist()
        [162, 162]
    """

    def __init__(self, num_masks: int = 1, seed: int = 0) -> None:
        super().__init__()
        if type(num_masks) is not int or num_masks < 1:
            raise ValueError(f"`num_masks` must be a whole number from 1 on, got {num_masks}.")
        if type(seed) is not int or seed < 0:
            raise ValueError(f"`seed` must be a whole number from 0 on, got {seed}.")
        self.num_masks = num_masks
        self.seed = seed

    def __call__(
        self, inputs: Tensor, network: BertsWinMAE, valid: Tensor | None = None, *_: Any, **__: Any
    ) -> dict[str, Tensor]:
        """Reconstruct a cube; ``valid`` is (1, n) bool, the tokens in the scan."""
        num_tokens = network.position_table.shape[1]
        # drawn on the CPU: the same on every device
        noises = [self._noise(mask, num_tokens).to(inputs.device) for mask in range(self.num_masks)]
        results = [network(inputs, valid=valid, noise=noise) for noise in noises]
        return {key: torch.cat([result[key] for result in results]) for key in ("reconstruction", "masked")}

    def _noise(self, mask: int, num_tokens: int) -> Tensor:
        """What decides about one mask."""
        return torch.rand(1, num_tokens, generator=torch.Generator().manual_seed(self.seed + mask))
