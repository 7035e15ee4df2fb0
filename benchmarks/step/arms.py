"""The ways to pre-train that `pretrain_step.py` compares, and the sizes that it compares them at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from tensor_loops import Loop, Losses, Method, TensorLion
from torch import nn

from bertswin_ext.losses import MaskedL2Loss, SubpatchStructureLoss
from bertswin_ext.networks import BertsWinMAE, ViTMAE
from bertswin_ext.optimizers import GradientConductor, LionLARS
from step.straightforward import StraightforwardMAE, structure_terms
from step.swin_ssl import DIVISOR, SwinSSL, ssl_loss

WEIGHTS = {"brightness": 0.3, "contrast": 0.2, "structure": 0.5}
OURS, OURS_ONE = "BertsWin, conductor", "BertsWin, one loss"
PLAIN, PLAIN_ONE = "straightforward, conductor", "straightforward, one loss"
VIT, SWIN = "MONAI ViT-MAE", "MONAI Swin UNETR SSL"
COMPILED = ", compiled"


class Size(NamedTuple):
    """A network and what it is fed."""

    img_size: int
    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    window_size: int = 7
    decoder_hidden_size: int = 512
    stem_channels: int = 48
    subpatch_size: int = 8
    batch: int = 1
    steps: int = 1

    def of(self, *names: str) -> dict[str, int]:
        """Some of the numbers, by name."""
        return {name: getattr(self, name) for name in names}

    def bertswin(self) -> dict[str, int]:
        """Arguments of BertsWin."""
        own = ("subpatch_size", "batch", "steps")
        return self.of(*(name for name in self._fields if name not in own))


SIZES = {
    "demo": Size(48, 8, 96, 4, 4, 3, 128, 16, 4, batch=4, steps=5),
    "96": Size(96, window_size=3, steps=2),
    "224": Size(224, steps=2),
}


class Place(NamedTuple):
    """Where parameters are, and their type."""

    device: str
    dtype: torch.dtype


class Arm(NamedTuple):
    """A network, its losses, and how a step is made of them."""

    network: nn.Module
    forward: Callable[[torch.Tensor], Losses]
    losses: Callable[[Losses, torch.Tensor], Losses]
    method: Method
    views: int = 1
    """Volumes that the network is given for one of the batch."""


class Conducting(Method):
    """`GradientConductor` and an optimizer, as the trainer uses them; losses come weighted."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(network, optimizer, list(WEIGHTS))
        self.conductor = GradientConductor(network, dict.fromkeys(WEIGHTS, 1.0))

    def backward(self, losses: Losses) -> None:
        """A row for each loss."""
        self.conductor.accumulate(losses)

    def decide(self) -> None:
        """One gradient from the rows."""
        self.conductor.conduct()

    def clear(self) -> None:
        """The conductor does so itself."""


def ours(size: Size, place: Place, compiled: bool, conducted: bool) -> Arm:
    """`BertsWinMAE`, `SubpatchStructureLoss`, `LionLARS`, with or without `GradientConductor`."""
    network = BertsWinMAE(**size.bertswin()).to(place.device, place.dtype)
    criterion = SubpatchStructureLoss(size.patch_size, size.subpatch_size, tuple(WEIGHTS.values()))
    optimizer = LionLARS(network.parameters(), lr=1e-6)

    def terms(output: Losses, volume: torch.Tensor) -> Losses:
        return _weighted(criterion.terms(output, volume))

    if conducted:
        return Arm(network, _compiled(network, compiled), terms, Conducting(network, optimizer))
    method = Method(network, optimizer, ["sum"])
    return Arm(network, _compiled(network, compiled), lambda output, volume: {"sum": criterion(output, volume)}, method)


def straightforward(size: Size, place: Place, compiled: bool, conducted: bool) -> Arm:
    """`StraightforwardMAE`, its loss, and loops over tensors."""
    network = StraightforwardMAE(**size.bertswin()).to(place.device, place.dtype)

    def terms(output: Losses, volume: torch.Tensor) -> Losses:
        return _weighted(structure_terms(output, volume, size.patch_size, size.subpatch_size))

    if conducted:
        return Arm(network, network, terms, Loop(network, list(WEIGHTS)))
    method = Method(network, TensorLion(network.parameters()), ["sum"])
    return Arm(network, network, lambda output, volume: {"sum": sum(terms(output, volume).values())}, method)


def vit_mae(size: Size, place: Place, compiled: bool) -> Arm:
    """MONAI's masked autoencoder with its defaults, L2 of masked patches, AdamW."""
    network = ViTMAE(1, size.img_size, size.patch_size, **size.of("hidden_size", "num_layers", "num_heads")).to(
        place.device, place.dtype
    )
    criterion = MaskedL2Loss(size.patch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.05)
    method = Method(network, optimizer, ["l2"])
    return Arm(network, _compiled(network, compiled), lambda output, volume: {"l2": criterion(output, volume)}, method)


def swin_ssl(size: Size, place: Place, compiled: bool) -> Arm:
    """The three tasks of Swin UNETR's pre-training, AdamW."""
    network = SwinSSL().to(place.device, place.dtype)
    method = Method(network, torch.optim.AdamW(network.parameters(), lr=1e-6, weight_decay=1e-5), ["sum"])
    return Arm(network, network, lambda output, views: {"sum": ssl_loss(output, views)}, method, views=2)


MAKERS: Mapping[str, Callable[[Size, Place, bool], Arm]] = {
    OURS: lambda *given: ours(*given, conducted=True),
    OURS_ONE: lambda *given: ours(*given, conducted=False),
    PLAIN: lambda *given: straightforward(*given, conducted=True),
    PLAIN_ONE: lambda *given: straightforward(*given, conducted=False),
    VIT: vit_mae,
    SWIN: swin_ssl,
}


def arm_names(size: Size, compiled: bool) -> list[str]:
    """Arms that there are at a size, compiled ones after the others."""
    eager = [name for name in MAKERS if name != SWIN or size.img_size % DIVISOR == 0]
    return eager + [name + COMPILED for name in (OURS, OURS_ONE, VIT) if compiled]


def make_arm(name: str, size: Size, device: str, dtype: torch.dtype = torch.float32) -> Arm:
    """An arm by name."""
    return MAKERS[eager_name(name)](size, Place(device, dtype), is_compiled(name))


def eager_name(name: str) -> str:
    """The same arm without `torch.compile`."""
    return name.removesuffix(COMPILED)


def is_compiled(name: str) -> bool:
    """Whether an arm goes through `torch.compile`."""
    return name.endswith(COMPILED)


def yardstick(name: str) -> str:
    """The straightforward arm with the same recipe; that of one loss for other methods."""
    return PLAIN if name.startswith(OURS) or name == PLAIN else PLAIN_ONE


def _weighted(terms: Losses) -> dict[str, torch.Tensor]:
    return {name: weight * terms[name] for name, weight in WEIGHTS.items()}


def _compiled(network: nn.Module, compiled: bool) -> Any:
    """The network, or its compiled form, of whose graph every loss takes its own gradient."""
    if not compiled:
        return network
    torch._functorch.config.donated_buffer = False
    return torch.compile(network)
