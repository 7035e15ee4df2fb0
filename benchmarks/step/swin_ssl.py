"""The pre-training step of Swin UNETR on MONAI's `SwinTransformer`: inpainting, rotation and contrast of two views.

MONAI has the encoder; heads and losses are written here after the description of the released code.

Source: Tang et al., arXiv 2111.14791; sizes and losses as in MONAI's research contributions.
"""

from __future__ import annotations

import torch
from monai.losses import ContrastiveLoss
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import nn
from torch.nn import functional as F

DIVISOR = 32
ROTATIONS, CONTRAST_WIDTH, TEMPERATURE = 4, 512, 0.5


class SwinSSL(nn.Module):
    """Encoder, and a head for each of the three tasks.

    Args:
        feature_size: channels of the first stage.
    """

    def __init__(self, feature_size: int = 48) -> None:
        super().__init__()
        self.encoder = SwinTransformer(
            in_chans=1,
            embed_dim=feature_size,
            window_size=(7, 7, 7),
            patch_size=(2, 2, 2),
            depths=(2, 2, 2, 2),
            num_heads=(3, 6, 12, 24),
            spatial_dims=3,
        )
        width = 16 * feature_size
        self.rotation = nn.Linear(width, ROTATIONS)
        self.contrast = nn.Linear(width, CONTRAST_WIDTH)
        halved = [width // 2**stage for stage in range(5)]
        stages = [_upsample(before, after) for before, after in zip(halved, [*halved[1:], feature_size], strict=True)]
        self.inpainting = nn.Sequential(*stages, nn.Conv3d(feature_size, 1, 1))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views (2b, 1, s, s, s), the second half being the other view of the first, to what the heads say."""
        features = self.encoder(x.contiguous())[-1]
        tokens = features.flatten(2).transpose(1, 2)
        return {
            "rotation": self.rotation(tokens[:, 0]),
            "contrast": self.contrast(tokens[:, 1]),
            "inpainting": self.inpainting(features),
        }


def ssl_loss(output: dict[str, torch.Tensor], views: torch.Tensor) -> torch.Tensor:
    """Sum of the three losses in float32; that the turns are all none makes no difference to the time."""
    turns = torch.zeros(len(views), dtype=torch.long, device=views.device)
    first, second = output["contrast"].float().chunk(2)
    return (
        F.cross_entropy(output["rotation"].float(), turns)
        + ContrastiveLoss(temperature=TEMPERATURE)(first, second)
        + F.l1_loss(output["inpainting"].float(), views)
    )


def _upsample(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1),
        nn.InstanceNorm3d(out_channels),
        nn.LeakyReLU(),
        nn.Upsample(scale_factor=2, mode="trilinear"),
    )
