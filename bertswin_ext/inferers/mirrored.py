"""Test-time mirroring: the mean of what a network says about a volume and about its mirror images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.inferers import Inferer

__all__ = ["MirroredInferer"]

_FIRST_SPATIAL_DIM = 2
_NUM_AXES = 3

Network = Callable[..., torch.Tensor]


class MirroredInferer(Inferer):  # type: ignore[misc]
    """Average the network's output over all mirror images along the chosen axes.

    The window is mirrored, not the volume: whatever the inferer cuts out goes through the network 2^n times for n axes,
    and what comes back is turned round and averaged before it is put in its place. So memory stays that of one window.

    Mirror along axes along which the network saw mirrored samples in training, too. A network for right joints, whose
    left ones are mirrored before it sees them, has never seen one mirrored along the first axis.

    Args:
        inferer: applies a network to a volume.
        axes: spatial axes to mirror along, 0 to 2; none of them means the plain inferer.

    Shape:
        Volumes are ``(b, c, i, j, k)``; the network's output has the same spatial axes.

    Raises:
        ValueError: an axis is none of 0, 1, 2, or is there twice.
        TypeError: when called, if the network's output is not one tensor.

    Example:
        >>> from monai.inferers import SimpleInferer
        >>> volume = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1, 1)
        >>> inferer = MirroredInferer(SimpleInferer(), axes=(0,))
        >>> inferer(volume, lambda x: x.cumsum(2)).flatten()  # 1, 3, 7 and 7, 6, 4
        tensor([4.0000, 4.5000, 5.5000])
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        self.inferer = inferer
        self.axes = _checked(axes)
        self._flips = [tuple(axis + _FIRST_SPATIAL_DIM for axis in flip) for flip in _subsets(self.axes)]

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> Any:
        """Apply a network to a batch of volumes.

        Args:
            inputs: (b, c, i, j, k).
            network: takes what the inferer gives it, and returns one tensor.
            *args: handed on to the inferer.
            **kwargs: handed on to the inferer.

        Returns:
            What the inferer makes of the averaged output.
        """

        def averaged(x: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
            total = _output(network, x, *more, **named)
            for flip in self._flips:
                total = total + _output(network, x.flip(flip), *more, **named).flip(flip)
            return total / (1 + len(self._flips))

        return self.inferer(inputs, averaged if self._flips else network, *args, **kwargs)


def _output(network: Network, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What the network returns, which must be one tensor."""
    output = network(x, *args, **kwargs)
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"Mirroring needs a network that returns one tensor, got {type(output).__name__}. Use axes=() with it."
        )
    return output


def _subsets(axes: Sequence[int]) -> Iterable[tuple[int, ...]]:
    """All choices of at least one axis."""
    return chain.from_iterable(combinations(axes, count) for count in range(1, len(axes) + 1))


def _checked(axes: Sequence[int]) -> tuple[int, ...]:
    """The axes, each of which must be a spatial one and there once."""
    found = tuple(axes)
    if len(set(found)) != len(found) or any(axis not in range(_NUM_AXES) for axis in found):
        raise ValueError(f"`axes` must be different ones of 0, 1 and 2, got {found}. Use () for no mirroring.")
    return found
