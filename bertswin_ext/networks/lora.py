"""LoRA: low-rank adapters beside the frozen linear layers of an encoder."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.networks.weight_report import compare_weights

__all__ = [
    "LORA_TARGETS",
    "LowRankUpdate",
    "add_lora",
    "has_lora",
    "load_lora",
    "lora_state_dict",
    "merge_lora",
    "merged_state_dict",
]

logger = logging.getLogger(__name__)

Network = TypeVar("Network", bound=nn.Module)

LORA_TARGETS = ("qkv", "proj", "out_proj", "linear1", "linear2")
"""Linear layers of a block's attention and MLP; ``out_proj`` is what MONAI's ViT calls ``proj``."""

_HEAD = "decoder."
_INSIDE = ".parametrizations.weight."
_ORIGINAL = f"{_INSIDE}original"


class LowRankUpdate(nn.Module):
    """A weight plus the product of two thin matrices; nothing at the start, for ``up`` is zero.

    Args:
        weight: the weight to be adapted, (out, in).
        rank: columns of ``up`` and rows of ``down``.
        alpha: the product is multiplied by ``alpha / rank``; the factor is kept with the weights.

    Source: LoRA, arXiv 2106.09685.
    """

    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        out_features, in_features = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, in_features))
        self.up = nn.Parameter(weight.new_zeros(out_features, rank))
        self.register_buffer("scale", weight.new_tensor(alpha / rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The adapted weight, (out, in)."""
        return weight + self.scale * (self.up @ self.down)


def add_lora(network: Network, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = LORA_TARGETS) -> Network:
    """Give the linear layers of an encoder adapters, and freeze the layers themselves.

    The output stays the same until an adapter is trained. Load the pre-trained encoder first: the adapted weights
    have other names afterwards, until `merge_lora`.

    Args:
        network: the network; nothing under ``decoder.`` is adapted. It is changed in place.
        rank: rank of the update.
        alpha: strength of the update, which is scaled by ``alpha / rank``.
        targets: last parts of the layers' names.

    Returns:
        The network itself.

    Raises:
        ValueError: ``rank`` or ``alpha`` is not positive, no layer has such a name, or there are adapters already.

    Source: arXiv 2106.09685; of all linear layers as in arXiv 2512.21769, section 5.

    Example:
        >>> from bertswin_ext.networks.presets import bertswin_tiny
        >>> network = add_lora(bertswin_tiny(), rank=4)
        >>> sum(value.numel() for key, value in lora_state_dict(network).items() if key.startswith("encoder."))
        24592
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`rank` must be a whole number of at least 1, got {rank!r}. The paper's is 8.")
    if not alpha > 0:
        raise ValueError(f"`alpha` must be positive, got {alpha}. The paper's is 16.")
    if has_lora(network):
        raise ValueError("The network has LoRA adapters already. Fold them in with merge_lora before adding others.")
    linears = _targeted(network, targets)
    for linear in linears:
        linear.requires_grad_(False)
        parametrize.register_parametrization(linear, "weight", LowRankUpdate(linear.weight, rank, alpha))
    logger.info("LoRA of rank %d on %d linear layers of the encoder", rank, len(linears))
    return network


def has_lora(network: nn.Module) -> bool:
    """Whether any layer has an adapter."""
    return next(_adapted(network), None) is not None


def merge_lora(network: Network) -> Network:
    """Fold all adapters into their layers, which are trainable again; names are those of a network without LoRA.

    Args:
        network: the network, changed in place; one without adapters stays as it is.

    Returns:
        The network itself.
    """
    for _, linear in list(_adapted(network)):
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
        linear.requires_grad_(True)
    return network


def merged_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """State dict that `merge_lora` would leave, while the network itself keeps its adapters.

    Args:
        network: a network with or without adapters, for example one that is still trained.
    """
    state_dict = {key: value for key, value in network.state_dict().items() if _INSIDE not in key}
    with torch.no_grad():
        return state_dict | {f"{name}.weight": linear.weight.detach() for name, linear in _adapted(network)}


def lora_state_dict(network: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of the adapters and of the head alone: what fine-tuning changed, a small file.

    Args:
        network: a network with adapters.

    Raises:
        ValueError: there are none.
    """
    if not has_lora(network):
        raise ValueError("The network has no LoRA adapters. Call add_lora first.")
    return {key: value for key, value in network.state_dict().items() if _is_adapter(key) or key.startswith(_HEAD)}


def load_lora(network: nn.Module, path: str | Path) -> None:
    """Fill the adapters and the head of a network.

    Nothing in the file tells which encoder the adapters were trained beside: load the same one first.

    Args:
        network: a network with adapters of the file's rank on the file's layers.
        path: a file of `lora_state_dict`, bare or under ``model``.

    Raises:
        ValueError: the network has no adapters, the file is unreadable, or any tensor does not fit.
    """
    own, weights = lora_state_dict(network), tensors_of(read_checkpoint(path))
    report = compare_weights(weights, own)
    if report.missing or report.mismatched or report.unexpected:
        raise ValueError(
            f"{path} does not fit the network's adapters and head: {report}. Call add_lora with the rank and targets "
            "that the file was trained with, on a network of the same sizes."
        )
    network.load_state_dict(weights, strict=False)


def _targeted(network: nn.Module, targets: Sequence[str]) -> list[nn.Linear]:
    """Linear layers outside the head whose names end so."""
    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    encoder = {name: linear for name, linear in linears.items() if not name.startswith(_HEAD)}
    found = [linear for name, linear in encoder.items() if name.rpartition(".")[2] in targets]
    if not found:
        names = sorted({name.rpartition(".")[2] for name in encoder})
        raise ValueError(
            f"No linear layer of the encoder is called {' or '.join(targets) or 'nothing'}. This "
            f"{type(network).__name__} has {', '.join(names) or 'no linear layers'}: choose `targets` among them."
        )
    return found


def _adapted(network: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers with an adapter, by name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            yield name, module


def _is_adapter(key: str) -> bool:
    """Whether a tensor is part of an adapter."""
    return _INSIDE in key and not key.endswith(_ORIGINAL)
