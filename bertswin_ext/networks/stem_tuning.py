"""A pre-trained network and a new stem for it, which runs over whole volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.stems import PatchStem, StemKind, split_patches
from bertswin_ext.networks.weights import load_weights

__all__ = ["StemInit", "StemRoute", "StemTuner", "start_stem"]

StemInit = Literal["kernels", "random"]
StemObjective = Literal["tokens", "reconstruction"]
StemRoute = Literal["per_patch", "untuned", "tuned"]

_KERNEL_DIMS = 5


def start_stem(stem: PatchStem, source: PatchStem) -> None:
    """Give a stem the weights of the pre-trained one.

    A kernel of 3 at stride 2 with padding 1 looks at the two voxels of its own cell and one before it. The
    non-overlapping stem, whose kernels end with the cell, takes the two; everything else is copied.

    Args:
        stem: the stem to fill, of the same widths.
        source: the overlapping stem of a pre-trained network.
    """
    own = stem.state_dict()
    taken = dict(source.state_dict())
    for key, value in taken.items():
        if value.ndim == _KERNEL_DIMS and value.shape != own[key].shape:
            taken[key] = value[..., -2:, -2:, -2:]
    stem.load_state_dict(taken)


class StemTuner(nn.Module):
    """A pre-trained network whose encoder and decoder are frozen, with a new stem in front of them.

    In pre-training the overlapping stem saw every patch alone. Over a whole volume its kernels and norms see the
    neighbours as well, and the encoder gets tokens it has never met. The new stem, the only thing here that learns, is
    to give it the tokens it knows: ``tuned`` is the network with the new stem, ``source`` the pre-trained one with its
    own; both share encoder and decoder.

    Args:
        network: a `BertsWinMAE` with the overlapping stem, as it was pre-trained.
        path: its weights.
        stem: the new stem: ``"non_overlapping"`` (strict), whose stages a segmentation network can use as skips, or
            ``"overlapping"``, the pre-trained one run over the volume.
        init: start from the pre-trained ``"kernels"`` (see `start_stem`), or at ``"random"``.
        objective: what `forward` computes in training: ``"tokens"`` of both stems, to be brought together; or the
            ``"reconstruction"`` through frozen encoder and decoder, the paper's way.

    Shape:
        - b batch, c channels, i j k voxels, n tokens, h hidden size, as in `BertsWinMAE`.

    Raises:
        ValueError: the network has no stem to tune, the weights do not fit, or a choice is unknown.

    Source: arXiv 2512.21769, "stem tuning", which trains the stem through the frozen encoder and decoder. We bring the
    tokens together by default: an autoencoder that sees everything reaches the loss per patch long before its
    features are those of the pre-trained network, and its loss says nothing about them.
    """

    def __init__(
        self,
        network: BertsWinMAE,
        path: str | Path,
        stem: StemKind = "non_overlapping",
        init: StemInit = "kernels",
        objective: StemObjective = "tokens",
    ) -> None:
        super().__init__()
        _check_choice("init", init, get_args(StemInit))
        _check_choice("objective", objective, get_args(StemObjective))
        _check_choice("stem", stem, get_args(StemKind))
        _check_network(network)
        load_weights(network, path)
        self.objective = objective
        self.source = network.requires_grad_(False)
        self.tuned = _with_new_stem(network, stem)
        if init == "kernels":
            start_stem(self.tuned.stem, network.stem)

    def forward(
        self, x: torch.Tensor, valid: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """What the objective needs in training, everything in evaluation.

        Args:
            x: volumes (b, c, i, j, k).
            valid: (b, n) bool, tokens in the field of view.
            noise: what would decide about the mask; nothing is hidden here.

        Returns:
            See `outputs`; in training ``tokens`` and ``expected_tokens``, or ``reconstruction`` and ``masked``.
        """
        if not self.training:
            return self.outputs(x, valid)
        if self.objective == "tokens":
            return {"tokens": self.tuned.tokens(x), "expected_tokens": self._tokens_per_patch(x)}
        return self._reconstruct(self.tuned.forward_features(x))

    def outputs(
        self, x: torch.Tensor, valid: torch.Tensor | None = None, route: StemRoute = "tuned"
    ) -> dict[str, torch.Tensor]:
        """Everything that can be measured of a volume on its way through the network with nothing hidden.

        Args:
            x: volumes (b, c, i, j, k).
            valid: (b, n) bool; per patch, tokens outside become mask tokens, as in pre-training.
            route: ``per_patch`` is the pre-trained network as it was trained, ``untuned`` its own stem run over the
                volume, ``tuned`` the new stem run over the volume.

        Returns:
            ``reconstruction`` (b, c, i, j, k); ``masked`` (b, n), all True, so that losses score every token;
            ``tokens`` and ``features`` (b, n, h), and as ``expected_tokens`` and ``expected_features`` those of the
            route ``per_patch``.
        """
        _check_choice("route", route, get_args(StemRoute))
        expected = self._tokens_per_patch(x), self.source.encode_patches(x, valid)
        if route == "per_patch":
            tokens, features = expected
        else:
            network = self.source if route == "untuned" else self.tuned
            tokens, features = network.tokens(x), network.forward_features(x)
        return {
            **self._reconstruct(features),
            "tokens": tokens,
            "features": _flat(features),
            "expected_tokens": expected[0],
            "expected_features": _flat(expected[1]),
        }

    @torch.no_grad()
    def _tokens_per_patch(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (b, n, h) of the pre-trained stem, patch by patch."""
        patches = split_patches(x, self.source.patch_size)
        return self.source.stem.embed_patches(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])

    def _reconstruct(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """The frozen decoder's volume, every token of which counts."""
        masked = torch.ones(len(features), features[0, 0].numel(), dtype=torch.bool, device=features.device)
        return {"reconstruction": self.source.decode(features), "masked": masked}


def _with_new_stem(network: BertsWinMAE, stem: StemKind) -> BertsWinMAE:
    """The same network, not a copy of it, but for the stem."""
    other = BertsWinMAE(**{**network.arguments, "stem": stem})
    other.encoder, other.decoder, other.mask_token = network.encoder, network.decoder, network.mask_token
    return other


def _flat(features: torch.Tensor) -> torch.Tensor:
    """(b, h, gi, gj, gk) to (b, n, h)."""
    return features.flatten(2).transpose(1, 2)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of the words that are understood."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def _check_network(network: object) -> None:
    """Only an overlapping stem sees something else in a volume than in a patch."""
    if not isinstance(network, BertsWinMAE):
        raise ValueError(f"Only a BertsWinMAE has a stem to tune, got {type(network).__name__}.")
    if network.stem.kind != "overlapping":
        raise ValueError(
            f"The network's stem is {network.stem.kind!r}: it gives the same tokens for a volume as for its patches, "
            "and needs no tuning. Export the encoder with export_encoder.json."
        )
