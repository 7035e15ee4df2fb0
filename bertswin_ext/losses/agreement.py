"""How far features are from those that were expected."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

__all__ = ["AgreementLoss", "missed_variance"]

_TINY_VARIANCE = 1e-12


def missed_variance(input: torch.Tensor, expected: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Share of the expected features' variance over the scored tokens that the features miss.

    Args:
        input: features (b, n, h).
        expected: what they should be (b, n, h).
        scored: (b, n) bool, tokens that count.

    Returns:
        The mean over the samples, a scalar: 0 for equal features, 1 for the mean of the expected ones; a sample
        without a scored token counts as 0.
    """
    weight = scored[..., None].to(expected.dtype)
    mean = (expected * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
    missed = (((input - expected) ** 2) * weight).sum(dim=(1, 2))
    variance = (((expected - mean) ** 2) * weight).sum(dim=(1, 2))
    return (missed / variance.clamp(min=_TINY_VARIANCE)).mean()


class AgreementLoss(nn.Module):
    """Distance of a network's features from those expected of it, in units of their variance.

    Args:
        key: what is compared: ``input[key]`` with ``input["expected_" + key]``.

    Shape:
        - input: mapping with both (b, n, h).
        - target: mapping with, where known, ``valid`` (b, n) bool: tokens outside are not scored.
        - output: a scalar, see `missed_variance`.

    Raises:
        ValueError: an entry is missing, or their shapes differ.

    Example:
        >>> features = {"tokens": torch.zeros(1, 4, 6), "expected_tokens": torch.eye(4, 6)[None]}
        >>> round(AgreementLoss("tokens")(features, {}).item(), 2)
        1.33
    """

    def __init__(self, key: str = "tokens") -> None:
        super().__init__()
        self.key = key

    def forward(self, input: Mapping[str, torch.Tensor], target: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Compare in float32, whatever the autocast type."""
        found, expected = self._entry(input, self.key), self._entry(input, f"expected_{self.key}")
        if found.shape != expected.shape:
            raise ValueError(
                f"`{self.key}` and `expected_{self.key}` must have one shape, got {tuple(found.shape)} and "
                f"{tuple(expected.shape)}."
            )
        valid = target.get("valid")
        scored = torch.ones(found.shape[:2], dtype=torch.bool, device=found.device) if valid is None else valid
        with torch.autocast(found.device.type, enabled=False):
            return missed_variance(found.float(), expected.float(), scored)

    def _entry(self, input: Mapping[str, torch.Tensor], key: str) -> torch.Tensor:
        """One of the two, or what is there instead."""
        if key not in input:
            raise ValueError(f"The network's output must have `{key}`, found {', '.join(sorted(input))}.")
        return input[key]
