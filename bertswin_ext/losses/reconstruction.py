"""What all reconstruction losses share: which tokens count and how much, named terms and their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

__all__ = ["ReconstructionLoss", "mean_over_scored", "one_sample", "scored_tokens", "shares_of_scored", "weighted_sum"]

_REDUCTIONS = ("tokens", "samples")


def scored_tokens(
    masked: torch.Tensor, valid: torch.Tensor | None = None, score_invalid: bool = False, score_visible: bool = False
) -> torch.Tensor:
    """Tokens that a loss looks at: masked ones, inside the field of view unless ``score_invalid``. (b, n) bool.

    With ``score_visible`` the visible ones, too.
    """
    scored = torch.ones_like(masked) if score_visible else masked
    return scored if valid is None or score_invalid else scored & valid


def shares_of_scored(scored: torch.Tensor, reduction: str, dtype: torch.dtype) -> torch.Tensor:
    """What a token counts in a mean over the scored ones (b, n), see `ReconstructionLoss`; 0 for all others."""
    shares = scored.to(dtype)
    if reduction == "tokens":
        return shares / shares.sum().clamp(min=1)
    return shares / (shares.sum(dim=1, keepdim=True).clamp(min=1) * len(shares))


def weighted_sum(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of values, each times its weight; one of weight 0 may be anything."""
    return (torch.where(weights != 0, values, 0.0) * weights).sum()


def mean_over_scored(values: torch.Tensor, scored: torch.Tensor, reduction: str = "tokens") -> torch.Tensor:
    """Mean of (b, n) over the scored tokens (b, n), see `ReconstructionLoss`; 0 where none is scored."""
    return weighted_sum(values, shares_of_scored(scored, reduction, values.dtype))


def one_sample(batch: Mapping[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One sample of a batch, as a batch."""
    return {key: value[index : index + 1] for key, value in batch.items()}


class ReconstructionLoss(nn.Module):
    """Base of the losses that compare a reconstruction with its volume, patch by patch.

    A subclass names its terms in ``term_names``, computes the errors of tokens in `token_errors`, may say in
    `token_weights` what each counts, and says in ``uses_label`` whether it makes use of labels.

    Args:
        patch_size: edge of a token in voxels.
        loss_weights: weight of every term, in the order of ``term_names``.
        score_invalid: also score tokens outside the field of view, as the reference code does.
        reduction: ``tokens`` takes the mean over all scored tokens of the batch, as the reference code does;
            ``samples`` takes it sample by sample, then over the samples. Where samples have different numbers of
            tokens, only the second does not depend on how they are put into batches, micro-batches and processes.
        score_visible: also score the tokens that the network saw, each like a masked one, so that with a masking ratio
            of 0.75 they count a quarter; the paper scores masked tokens only. Losses with and without it are means over
            different tokens and not to be compared.

    Shape:
        - input: mapping with ``reconstruction`` (b, c, i, j, k) and ``masked`` (b, n) bool.
        - target: the volume (b, c, i, j, k), or a mapping with ``image`` and, where known, ``valid`` (b, n) bool,
          ``label`` (b, 1, i, j, k) and ``has_label`` (b,) bool.
        - output: a scalar.

    Raises:
        ValueError: the number of weights is not the number of terms, the reduction is another, or shapes do not fit.
    """

    term_names: tuple[str, ...] = ()
    uses_label: bool = False

    def __init__(
        self,
        patch_size: int,
        loss_weights: tuple[float, ...] = (1.0,),
        score_invalid: bool = False,
        reduction: str = "tokens",
        score_visible: bool = False,
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(f"`reduction` must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}.")
        if len(loss_weights) != len(self.term_names):
            raise ValueError(
                f"`loss_weights` must have one weight for each of {self.term_names}, got {tuple(loss_weights)}."
            )
        self.patch_size = patch_size
        self.loss_weights = dict(zip(self.term_names, loss_weights, strict=True))
        self.score_invalid = score_invalid
        self.reduction = reduction
        self.score_visible = score_visible
        self.last_terms: dict[str, torch.Tensor] = {}

    def forward(
        self, input: Mapping[str, torch.Tensor], target: torch.Tensor | Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Weighted sum of the terms; ``last_terms`` then holds them, detached."""
        terms = self.terms(input, target)
        self.last_terms = {name: term.detach() for name, term in terms.items()}
        return torch.stack([weight * terms[name] for name, weight in self.loss_weights.items()]).sum()

    def terms(
        self, input: Mapping[str, torch.Tensor], target: torch.Tensor | Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The terms by name, unweighted scalars in float32 (float64 for float64 input)."""
        fields = target if isinstance(target, Mapping) else {"image": target}
        reconstruction, image = _exact(input["reconstruction"]), _exact(fields["image"])
        if reconstruction.shape != image.shape:
            raise ValueError(
                f"The reconstruction must have the target's shape {tuple(image.shape)}, "
                f"got {tuple(reconstruction.shape)}."
            )
        scored = scored_tokens(input["masked"], fields.get("valid"), self.score_invalid, self.score_visible)
        self._check_tokens(scored, image)
        with torch.autocast(image.device.type, enabled=False):
            weights = self.token_weights(image, scored, fields)
            errors = self.token_errors(reconstruction, image)
            return {name: weighted_sum(error, weights) for name, error in errors.items()}

    def token_errors(self, input: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """Errors of every token, by term.

        Args:
            input: predicted volume (b, c, i, j, k), float32 or float64.
            target: true volume, likewise.

        Returns:
            (b, n) for each of ``term_names``.
        """
        raise NotImplementedError("A reconstruction loss computes the errors of tokens in `token_errors`.")

    def token_weights(
        self, target: torch.Tensor, scored: torch.Tensor, fields: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """What every token counts in a term: the mean over the scored ones unless a subclass knows better.

        Args:
            target: true volume (b, c, i, j, k).
            scored: (b, n) bool, tokens that may count.
            fields: everything the batch knows of the target: ``image``, ``label``, ...

        Returns:
            (b, n), at least 0, of the type of the target.
        """
        return shares_of_scored(scored, self.reduction, target.dtype)

    def _check_tokens(self, scored: torch.Tensor, image: torch.Tensor) -> None:
        """Refuse a mask of other tokens than the volume has."""
        edges, patch = tuple(image.shape[2:]), self.patch_size
        if any(edge % patch for edge in edges):
            raise ValueError(f"The edges of the volume must be multiples of patch_size {patch}, got {edges}.")
        expected = len(image), math.prod([edge // patch for edge in edges])
        if scored.shape != expected:
            raise ValueError(
                f"`masked` must be (batch, tokens) = {expected} for patch_size {patch}, got {tuple(scored.shape)}."
            )


def _exact(x: torch.Tensor) -> torch.Tensor:
    """Statistics are computed in float32, whatever the autocast type."""
    return x if x.dtype == torch.float64 else x.float()
