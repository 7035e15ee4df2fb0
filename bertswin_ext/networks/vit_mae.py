"""The baseline: MONAI's ViT masked autoencoder behind the contract of `BertsWinMAE`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, get_args

import torch
from einops import rearrange
from monai.networks.nets import MaskedAutoEncoderViT
from monai.utils import ensure_tuple_rep
from torch import nn

from bertswin_ext.networks.masking import RatioOf, choose_visible

__all__ = ["ViTMAE"]


class ViTMAE(MaskedAutoEncoderViT):  # type: ignore[misc]
    """`monai.networks.nets.MaskedAutoEncoderViT` that takes the mask's noise and returns a volume.

    Encoder and decoder are MONAI's own. Only two things are added: the visible tokens follow ``noise``, and the
    predicted patches are put back on the grid.

    Args:
        in_channels: channels of the volume.
        img_size: voxels per axis.
        patch_size: edge of a cubic patch in voxels.
        ratio_of: what the masking ratio counts when ``valid`` is given. MONAI's encoder wants the same number of
            visible tokens in every sample, so it is the ``"valid"`` tokens of the sample that has fewest, or ``"all"``
            tokens, as in `BertsWinMAE`: both networks then see the same.
        **kwargs: everything else that MONAI's network takes.

    Raises:
        ValueError: ``ratio_of`` is another word, or an argument is refused by MONAI.

    Attributes:
        arguments: all of these with MONAI's defaults, what an equal network is built with.
    """

    def __init__(
        self,
        in_channels: int,
        img_size: int | Sequence[int],
        patch_size: int,
        ratio_of: RatioOf = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, img_size, patch_size, **kwargs)
        if ratio_of not in get_args(RatioOf):
            raise ValueError(f"`ratio_of` must be 'valid' or 'all', got {ratio_of!r}.")
        self.ratio_of = ratio_of
        sizes = ensure_tuple_rep(img_size, 3)
        given = inspect.signature(MaskedAutoEncoderViT).bind(in_channels, list(sizes), patch_size, **kwargs)
        given.apply_defaults()
        self.arguments: dict[str, Any] = {**given.arguments, "ratio_of": ratio_of}
        self.in_channels = in_channels
        self.grid_size = tuple(size // patch_size for size in sizes)
        self._noise: torch.Tensor | None = None
        self._num_maskable = 0
        # a number of numpy's, which torch.compile takes for a tensor and stops at
        self.patch_embedding.n_patches = int(self.patch_embedding.n_patches)
        # under autocast MONAI would write half precision tokens between float32 ones, which torch refuses
        self.decoder_embed.register_forward_hook(_as_weights)

    def forward(
        self, x: torch.Tensor, valid: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Hide most of a volume and reconstruct all of it.

        Args:
            x: (b, c, i, j, k).
            valid: (b, n) bool; the tokens outside are hidden, as long as there are enough others, see ``ratio_of``.
            noise: (b, n); the tokens with the lowest noise stay visible. Drawn uniformly when not given.

        Returns:
            ``reconstruction`` (b, c, i, j, k) and ``masked`` (b, n) bool.
        """
        if noise is None:
            noise = torch.rand(len(x), self.patch_embedding.n_patches, device=x.device)
        self._noise = noise if valid is None else noise.masked_fill(~valid, float("inf"))
        self._num_maskable = noise.shape[1]
        if valid is not None and self.ratio_of == "valid":
            self._num_maskable = max(1, int(valid.sum(dim=1).min()))
        patches, masked = super().forward(x)
        self._noise = None
        gi, gj, gk = self.grid_size
        p, q, r = self.patch_size
        pattern = "b (gi gj gk) (c p q r) -> b c (gi p) (gj q) (gk r)"
        volume = rearrange(patches, pattern, gi=gi, gj=gj, gk=gk, c=self.in_channels, p=p, q=q, r=r)
        return {"reconstruction": volume, "masked": masked.bool()}

    def _masking(
        self, x: torch.Tensor, masking_ratio: float | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """MONAI's hook, with the noise of `forward` in the place of its own draw."""
        if self._noise is None:
            raise RuntimeError("The mask is drawn in `forward`; call the network itself.")
        ratio = self.masking_ratio if masking_ratio is None else masking_ratio
        num_visible = max(1, int(self._num_maskable * (1 - ratio)))
        # half a token more than are wanted, so that rounding does not take one away
        visible = choose_visible(self._noise, 1 - (num_visible + 0.5) / self._noise.shape[1])
        rows = visible.sample.view(len(x), -1)
        columns = visible.token.view(len(x), -1)
        masked = torch.ones(x.shape[:2], dtype=torch.int, device=x.device)
        masked[rows, columns] = 0
        return x[rows, columns], columns, masked


def _as_weights(layer: nn.Module, _: object, tokens: torch.Tensor) -> torch.Tensor:
    """What a layer put out, in the type of its weights."""
    return tokens.to(next(layer.parameters()).dtype)
