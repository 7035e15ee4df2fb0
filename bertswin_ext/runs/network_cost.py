"""What a sample costs in a masked autoencoder, by formula: FLOPs, and what the backward pass wants to be kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from bertswin_ext.networks.decoders import upsampling_strides
from bertswin_ext.networks.mask_tokens import MaskTokenUpdate
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.stems import PatchStem

__all__ = ["NetworkCost", "network_cost"]

_MLP_RATIO = 4
# numbers of one token's width that a block keeps of every place of its windows: q, k and v
_KEPT_IN_WINDOWS = 3
# ... of what is projected to them, and from them: the input of attention, and what was attended to
_KEPT_OF_ATTENTION = 2
# ... of what the MLP updates: the output of the second norm, the hidden layer before and after its GELU
_KEPT_OF_MLP = 1 + 2 * _MLP_RATIO
# places of windows that have no room for mask tokens come in multiples of these
_PLACES_AT_ONCE = 8
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
    tests. Attention is taken as computed step by step, weights kept: fused kernels keep less. Windows without mask
    tokens are taken as large as random masks of one sample make them; when compiled they have room for all tokens.

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
    works = [_block_work(network, update, visible) for update in network.encoder.mask_token_updates]
    kept = size * (stem_kept + decoder_kept) + _SINGLE * _KEPT_VOLUMES * voxels
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        tokens=tokens,
        padded_tokens=padded,
        stem_flops=visible * stem,
        encoder_flops=sum(work.flops for work in works),
        decoder_flops=tokens * _decoder_flops(network),
        first_layer_flops=visible * first,
        repeated_flops=sum(work.repeated_flops for work in works) if network.encoder.activation_checkpointing else 0.0,
        kept_bytes=kept + _encoder_bytes(network, works, tokens, size),
        largest_bytes=size * largest,
    )


def _padded(grid: Sequence[int], window: Sequence[int]) -> int:
    """Tokens of all windows, those that are not full included."""
    return math.prod(-(-size // edge) * edge for size, edge in zip(grid, window, strict=True))


class _BlockWork(NamedTuple):
    """What one block works on.

    Attributes:
        whole: whether all tokens are updated.
        width: numbers of a token.
        heads: attention heads.
        normed: tokens that the first norm sees.
        projected: tokens that give queries, keys and values.
        places: of all windows.
        room: places of a window.
        mixed: tokens that the MLP updates.
    """

    whole: bool
    width: int
    heads: int
    normed: int
    projected: int
    places: int
    room: int
    mixed: int

    @property
    def flops(self) -> float:
        """Of qkv and projection, the two products of attention, and the two layers of the MLP."""
        attention = self.projected * 2 * 4 * self.width**2 + self.places * 2 * 2 * self.room * self.width
        return attention + 2 * self._layer_flops

    @property
    def repeated_flops(self) -> float:
        """A checkpointed block is computed again up to its last product, and that too if tokens are put in place."""
        return self.flops - self._layer_flops if self.whole else self.flops

    @property
    def _layer_flops(self) -> float:
        """Of one layer of the MLP."""
        return self.mixed * 2.0 * _MLP_RATIO * self.width**2

    def kept_bytes(self, size: int) -> float:
        """What the block keeps in numbers of that size, the inputs of the norms in float32 always.

        The weights of attention are one for each pair of places in a window.
        """
        in_windows = self.places * (_KEPT_IN_WINDOWS * self.width + self.heads * self.room)
        of_tokens = self.width * (self.projected * _KEPT_OF_ATTENTION + self.mixed * _KEPT_OF_MLP)
        return size * (in_windows + of_tokens) + _SINGLE * self.width * (self.normed + self.mixed)


def _block_work(network: BertsWinMAE, update: MaskTokenUpdate, visible: int) -> _BlockWork:
    """The work of a block that treats mask tokens in one of the three ways."""
    sizes = update == "full", network.hidden_size, int(network.arguments["num_heads"])
    padded, window = _padded(network.grid_size, network.window_size), math.prod(network.window_size)
    if update == "none":
        room = _room(visible / math.prod(network.grid_size), padded // window, window)
        return _BlockWork(*sizes, visible, visible, padded // window * room, room, visible)
    tokens = math.prod(network.grid_size)
    return _BlockWork(*sizes, tokens, padded, padded, window, tokens if update == "full" else visible)


def _room(share: float, num_windows: int, window: int) -> int:
    """Places for the visible tokens of the fullest window: their mean number, and what random masks add to it."""
    deviation = math.sqrt(window * share * (1 - share) * (1 - 1 / num_windows))
    most = min(window, window * share + math.sqrt(2 * math.log(num_windows)) * deviation)
    return math.ceil(most / _PLACES_AT_ONCE) * _PLACES_AT_ONCE


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


def _encoder_bytes(network: BertsWinMAE, works: Sequence[_BlockWork], tokens: int, size: int) -> float:
    """What the blocks keep."""
    kept = [work.kept_bytes(size) for work in works]
    if network.encoder.activation_checkpointing:
        # the input of every block, and all of the one that is computed again
        return len(works) * tokens * network.hidden_size * _SINGLE + max(kept)
    return sum(kept)


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
