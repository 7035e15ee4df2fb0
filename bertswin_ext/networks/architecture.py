"""How an encoder is built, read off its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch

__all__ = ["Family", "architecture_of", "family_of", "is_head", "is_left_behind"]

Family = Literal["BertsWin", "ViT"]

_BLOCK = re.compile(r"^(?:encoder\.)?blocks\.(\d+)\.(?:attn|mlp)\.")
_STAGE = re.compile(r"^stem\.stages\.(\d+)\.0\.weight$")
_STEM_KINDS = {3: "overlapping", 2: "non_overlapping"}
_PATCHES = "patch_embedding.patch_embeddings.weight"


def family_of(weights: Mapping[str, torch.Tensor]) -> Family | None:
    """Whether tensors are those of a BertsWin network, of one on MONAI's ViT blocks, or of neither.

    Example:
        >>> family_of({"stem.projection.weight": torch.zeros(1)}), family_of({"conv.weight": torch.zeros(1)})
        ('BertsWin', None)
    """
    if any(key.startswith("stem.") for key in weights):
        return "BertsWin"
    return "ViT" if any(key.startswith("patch_embedding.") for key in weights) else None


def is_head(key: str) -> bool:
    """Whether a tensor of a network belongs to its decoder; MONAI's mask tokens do, being of its width."""
    return key.startswith(("decoder.", "decoder_")) or key == "mask_tokens"


def is_left_behind(key: str) -> bool:
    """Whether a tensor of a pre-trained network serves its pre-training only: the decoder and the mask token."""
    return is_head(key) or key == "mask_token"


def architecture_of(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Sizes of an encoder by the names of the networks' arguments, as far as its tensors tell.

    A window or a volume is told only where it is cubic; heads only where there are tables of position bias.

    Args:
        weights: a state dict of a BertsWin network or of one on MONAI's ViT blocks.

    Returns:
        Any of ``in_channels``, ``patch_size``, ``hidden_size``, ``num_layers``, ``num_heads``, ``mlp_dim``,
        ``stem_channels``, ``stem``, ``window_size`` and ``img_size``, the last two one for every axis; and
        ``bias_rows``, the rows of those tables.
    """
    facts = {"num_layers": _num_layers(weights)} | _stem_facts(weights) | _patch_facts(weights) | _table_facts(weights)
    linear = next((weights[key] for key in weights if key.endswith("blocks.0.mlp.linear1.weight")), None)
    if linear is not None:
        facts["mlp_dim"] = linear.shape[0]
    return facts


def _num_layers(weights: Mapping[str, torch.Tensor]) -> int:
    """Number of transformer blocks."""
    matches = (_BLOCK.match(key) for key in weights)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _stem_facts(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the convolutions of a `PatchStem` tell."""
    kernels = [weights[key] for key in sorted(weights) if _STAGE.match(key)]
    projection = weights.get("stem.projection.weight")
    if not kernels or projection is None or kernels[0].ndim != 5:
        return {}
    return {
        "in_channels": kernels[0].shape[1],
        "stem_channels": kernels[0].shape[0],
        "stem": _STEM_KINDS.get(kernels[0].shape[2]),
        "patch_size": 2 ** len(kernels),
        "hidden_size": projection.shape[0],
    }


def _patch_facts(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What MONAI's patch embedding tells."""
    kernel, positions = weights.get(_PATCHES), weights.get("patch_embedding.position_embeddings")
    if kernel is None or kernel.ndim != 5:
        return {}
    facts: dict[str, Any] = {
        "hidden_size": kernel.shape[0],
        "in_channels": kernel.shape[1],
        "patch_size": kernel.shape[2],
    }
    grid = None if positions is None else _cube_root(positions.shape[1])
    return facts if grid is None else facts | {"img_size": [grid * kernel.shape[2]] * 3}


def _table_facts(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the table of relative position bias tells."""
    table = next((weights[key] for key in weights if key.endswith("blocks.0.attn.relative_position_bias_table")), None)
    if table is None:
        return {}
    span = _cube_root(table.shape[0])
    window = {} if span is None or span % 2 == 0 else {"window_size": [(span + 1) // 2] * 3}
    return {"num_heads": table.shape[1], "bias_rows": table.shape[0]} | window


def _cube_root(number: int) -> int | None:
    """The whole number whose cube this is."""
    root = round(number ** (1 / 3))
    return root if root**3 == number else None
