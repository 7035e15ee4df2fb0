"""What a sample costs in a masked autoencoder, by formula: FLOPs, and what the backward pass wants to be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from bertswin_ext.networks.decoders import upsampling_strides
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.stems import PatchStem

__all__ = ["NetworkCost", "network_cost"]

_MLP_RATIO = 4
# numbers of one token's width that a block keeps in windows, which may be padded: the input of attention, q, k
# and v, and what was attended to
_KEPT_IN_WINDOWS = 1 + 3 + 1
# ... of tokens, in the type of the products: the output of the second norm, the hidden layer before and after its GELU
_KEPT_OF_MLP = 1 + 2 * _MLP_RATIO
# ... of tokens, in float32 always: the inputs of the norms
_KEPT_OF_SUM = 2
# of a stage of convolution, norm and GELU: the output of each
_KEPT_OF_STAGE = 3
# volumes that the loss keeps, in float32: the standardized prediction and the standardized target
_KEPT_VOLUMES = 2
# voxels of a patch that are left for the last convolution of the stem: it sees them once, whatever its kernel
_LAST_VOXELS = 8
_HALF, _SINGLE = 2, 4


class NetworkCost(NamedTuple):
    """What one sample costs.

    Attributes:
        parameters: of the network.
        tokens: of the sample.
        padded_tokens: tokens with those that fill the last windows up.
        stem_flops: forward, of the visible patches.
        encoder_flops: forward.
        decoder_flops: forward.
        first_layer_flops: forward, of the first convolution, whose input needs no gradient.
        repeated_flops: forward, of the blocks that every backward pass computes again under activation checkpointing.
        kept_bytes: activations that the forward pass keeps for the backward pass, those of the loss included.
        largest_bytes: of the largest activation.
    """

    parameters: int
    tokens: int
    padded_tokens: int
    stem_flops: float
    encoder_flops: float
    decoder_flops: float
    first_layer_flops: float
    repeated_flops: float
    kept_bytes: float
    largest_bytes: float

    @property
    def forward_flops(self) -> float:
        """Of one forward pass."""
        return self.stem_flops + self.encoder_flops + self.decoder_flops

    @property
    def backward_flops(self) -> float:
        """Of the backward pass of one loss: every product twice, for its input and for its weights."""
        return 2 * self.forward_flops - self.first_layer_flops + self.repeated_flops


def network_cost(network: BertsWinMAE, mixed: bool = False) -> NetworkCost:
    """Count what one sample costs in pre-training.

    A multiplication and an addition are two FLOPs. Counted are matrix products and convolutions, as torch's
    ``FlopCounterMode`` does: norms, softmax, the loss and the optimizer are 1 or 2 % more on top.

    Args:
        network: on any device, ``meta`` included: only its sizes are read.
        mixed: autocast in bfloat16, which halves most of what is kept.

    Raises:
        TypeError: the network is another.

    Source: FLOPs of a convolution or a product as usual; the constants are checked against torch's own counts in the
    tests. Attention is taken as computed step by step, weights kept: fused kernels keep less.

    Example:
        >>> network = BertsWinMAE(img_size=32, patch_size=8, hidden_size=48, num_layers=2, num_heads=4, window_size=2)
        >>> cost = network_cost(network)
        >>> cost.tokens, round(cost.forward_flops / 1e6)
        (64, 93)
    """
    if not isinstance(network, BertsWinMAE):
        raise TypeError(f"The costs of BertsWinMAE are known, got {type(network).__name__}. Count its FLOPs instead.")
    tokens = math.prod(network.grid_size)
    padded = _padded(network.grid_size, network.window_size)
    visible = int(tokens * (1 - network.masking_ratio))
    stem, first = _stem_flops(network.stem)
    stem_kept, decoder_kept, voxels, largest = _kept_numbers(network, visible, tokens)
    size = _HALF if mixed else _SINGLE
    kept = size * (stem_kept + decoder_kept) + _SINGLE * _KEPT_VOLUMES * voxels
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        tokens=tokens,
        padded_tokens=padded,
        stem_flops=visible * stem,
        encoder_flops=_encoder_flops(network, tokens, padded),
        decoder_flops=tokens * _decoder_flops(network),
        first_layer_flops=visible * first,
        repeated_flops=_repeated_flops(network, tokens, padded),
        kept_bytes=kept + _encoder_bytes(network, tokens, padded, mixed),
        largest_bytes=size * largest,
    )


def _padded(grid: Sequence[int], window: Sequence[int]) -> int:
    """Tokens of all windows, those that are not full included."""
    return math.prod(-(-size // edge) * edge for size, edge in zip(grid, window, strict=True))


def _encoder_flops(network: BertsWinMAE, tokens: int, padded: int) -> float:
    """Per block: qkv and projection, the two products of attention, and the two layers of the MLP."""
    width, window = network.hidden_size, math.prod(network.window_size)
    attention = padded * (2 * width * 4 * width + 2 * 2 * window * width)
    mlp = tokens * 2 * 2 * width * _MLP_RATIO * width
    return len(network.encoder.blocks) * (attention + mlp)


def _repeated_flops(network: BertsWinMAE, tokens: int, padded: int) -> float:
    """Checkpointed blocks are computed again up to the input of their last product."""
    if not network.encoder.activation_checkpointing:
        return 0.0
    last = tokens * 2 * _MLP_RATIO * network.hidden_size**2
    return _encoder_flops(network, tokens, padded) - len(network.encoder.blocks) * last


def _stem_flops(stem: PatchStem) -> tuple[float, float]:
    """Of a patch: all convolutions, and the first one."""
    *kernels, last = [stage[0].weight for stage in stem.stages]  # type: ignore[index]
    flops = [2.0 * (stem.patch_size >> number) ** 3 * kernel.numel() for number, kernel in enumerate(kernels, start=1)]
    flops.append(2.0 * last.shape[0] * last.shape[1] * _LAST_VOXELS)
    return sum(flops) + 2.0 * stem.projection.weight.numel(), flops[0]


def _decoder_flops(network: BertsWinMAE) -> float:
    """Of a token: the embedding and the transposed convolutions, which have no overlap."""
    decoder, edge = network.decoder, 1
    flops = 2.0 * decoder.embed.weight.numel()
    for layer, stride in zip(_upsampling(decoder.head), upsampling_strides(network.patch_size), strict=True):
        flops += 2.0 * edge**3 * layer.weight.numel()
        edge *= stride
    return flops


def _upsampling(head: nn.Module) -> list[nn.Conv3d | nn.ConvTranspose3d]:
    """The convolutions of a decoder's head, in their order."""
    return [layer for layer in head.modules() if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d)]


def _encoder_bytes(network: BertsWinMAE, tokens: int, padded: int, mixed: bool) -> float:
    """What the blocks keep; the weights of attention one for each pair of tokens in a window."""
    width, size = network.hidden_size, _HALF if mixed else _SINGLE
    weights = network.arguments["num_heads"] * math.prod(network.window_size)
    in_windows = padded * size * (_KEPT_IN_WINDOWS * width + weights)
    of_tokens = tokens * width * (_KEPT_OF_SUM * _SINGLE + _KEPT_OF_MLP * size)
    num_blocks = len(network.encoder.blocks)
    if network.encoder.activation_checkpointing:
        # the input of every block, and all of the one that is computed again
        return num_blocks * tokens * width * _SINGLE + in_windows + of_tokens
    return num_blocks * (in_windows + of_tokens)


def _kept_numbers(network: BertsWinMAE, visible: int, tokens: int) -> tuple[float, float, float, float]:
    """Numbers that stem and decoder keep, voxels of the sample, and numbers of the largest activation."""
    stem, decoder, voxels = network.stem, network.decoder, float(network.in_channels * math.prod(network.img_size))
    stages = [
        visible * (stem.patch_size >> number) ** 3 * network.arguments["stem_channels"] * 2 ** (number - 1)
        for number in range(1, len(stem.stages) + 1)
    ]
    kept_by_stem = visible * network.in_channels * stem.patch_size**3 + _KEPT_OF_STAGE * sum(stages)
    edge, grown = 1, list[float]()
    *inner, _ = zip(_upsampling(decoder.head), upsampling_strides(network.patch_size), strict=True)
    for layer, stride in inner:
        edge *= stride
        grown.append(tokens * edge**3 * layer.out_channels)
    kept_by_decoder = tokens * (network.hidden_size + decoder.embed.out_features) + _KEPT_OF_STAGE * sum(grown)
    return kept_by_stem, kept_by_decoder, voxels, max(*stages, *grown, voxels)
