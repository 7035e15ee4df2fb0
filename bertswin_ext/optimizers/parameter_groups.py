"""Fine-tuning strategies: which parameters train, and how fast."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

__all__ = ["STRATEGIES", "Strategy", "parameter_groups"]

logger = logging.getLogger(__name__)

Strategy = Literal["full", "linear_probe", "last_stage", "layer_decay", "lora"]

_BLOCK = re.compile(r"^(?:encoder\.)?blocks\.(\d+)\.\w+\.")
_STEM = ("stem.", "patch_embedding.", "cls_token", "mask_token")
_NEVER_DECAYED = ("relative_position_bias_table", "position_embeddings", "cls_token", "mask_token")
_ADAPTER = ".parametrizations."
_ORIGINAL = ".original"
_BODY_DIVISOR = 10


def parameter_groups(
    network: nn.Module,
    strategy: Strategy,
    head_lr: float = 1e-4,
    encoder_lr: float = 5e-6,
    weight_decay: float = 0.05,
    num_last: int = 4,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Freeze what a strategy does not train, and group the rest for an optimizer.

    The parts of a network are told by the names of its parameters: ``decoder.`` is the head, ``stem.`` or
    ``patch_embedding.`` the stem, ``encoder.blocks.N.`` or ``blocks.N.`` a block.

    - ``"full"``: the head at ``head_lr``, everything else at ``encoder_lr``.
    - ``"linear_probe"``: the head alone.
    - ``"last_stage"``: the head, and the last ``num_last`` blocks with what follows them at ``encoder_lr``.
    - ``"layer_decay"``: the head at ``head_lr``, the stem at ``encoder_lr``, the blocks between at a tenth of the sum
      of both; or, with a ``layer_decay`` f, every block at f times the rate of what follows it, down to the stem.
    - ``"lora"``: the head and the adapters of `add_lora`, both at ``head_lr``.

    Vectors (biases, scales and shifts of norms), position tables and class tokens have no weight decay. A parameter
    that is frozen already stays so: call this once for a network. Modes are left alone, for a frozen encoder has no
    running statistics. Wrap the network in `DistributedDataParallel` afterwards.

    Args:
        network: its parameters' ``requires_grad`` is set.
        strategy: one of the above.
        head_lr: learning rate of the head.
        encoder_lr: learning rate of the encoder.
        weight_decay: of the matrices and kernels.
        num_last: blocks that ``"last_stage"`` trains.
        layer_decay: factor from block to block, in (0, 1]; ``"layer_decay"`` only.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``, the head first.

    Raises:
        ValueError: a number is out of range, or the strategy is unknown or needs parts that the network lacks.

    Source: arXiv 2512.21769, section 5; the factor per block as in BEiT, arXiv 2106.08254.

    Example:
        >>> network = nn.ModuleDict({"stem": nn.Linear(4, 4), "decoder": nn.Linear(4, 2)})
        >>> for group in parameter_groups(network, "full"):
        ...     print(group["name"], group["lr"], group["weight_decay"], len(group["params"]))
        head 0.0001 0.05 1
        head, no decay 0.0001 0.0 1
        encoder 5e-06 0.05 1
        encoder, no decay 5e-06 0.0 1
    """
    names = [name for name, _ in network.named_parameters()]
    numbers = _Numbers(head_lr, encoder_lr, weight_decay, num_last, layer_decay, _num_blocks(names))
    _check(names, strategy, numbers)
    place = _PLACES[strategy]
    groups: dict[str, dict[str, Any]] = {}
    frozen: dict[str, int] = {}
    for name, parameter in network.named_parameters():
        part = _part_of(name)
        placed = place(part, numbers) if parameter.requires_grad else None
        if placed is None:
            parameter.requires_grad_(False)
            frozen[part.kind] = frozen.get(part.kind, 0) + parameter.numel()
        else:
            _add(groups, name, parameter, placed, weight_decay)
    ordered = sorted(groups.values(), key=lambda group: not group["name"].startswith("head"))
    _log(strategy, ordered, frozen)
    return ordered


class _Part(NamedTuple):
    """Where a parameter stands."""

    kind: Literal["head", "lora", "stem", "blocks", "rest"]
    block: int = -1


class _Placed(NamedTuple):
    """The group of a parameter that trains."""

    name: str
    lr: float


@dataclass(frozen=True)
class _Numbers:
    """What the strategies compute with."""

    head_lr: float
    encoder_lr: float
    weight_decay: float
    num_last: int
    layer_decay: float | None
    num_blocks: int


def _full(part: _Part, numbers: _Numbers) -> _Placed | None:
    """Everything, in two speeds."""
    return _head(part, numbers) or _Placed("encoder", numbers.encoder_lr)


def _head(part: _Part, numbers: _Numbers) -> _Placed | None:
    """The head alone."""
    return _Placed("head", numbers.head_lr) if part.kind == "head" else None


def _last_stage(part: _Part, numbers: _Numbers) -> _Placed | None:
    """The head and the last blocks; a norm behind these belongs to them."""
    if part.kind == "rest":
        return _Placed("encoder.norm", numbers.encoder_lr)
    if part.kind == "blocks" and part.block >= numbers.num_blocks - numbers.num_last:
        return _Placed(f"encoder.blocks.{part.block}", numbers.encoder_lr)
    return _head(part, numbers)


def _layer_decay(part: _Part, numbers: _Numbers) -> _Placed | None:
    """Three speeds, or one for every block."""
    if part.kind == "head":
        return _head(part, numbers)
    if numbers.layer_decay is not None:
        # the head has depth 0, the last block and a norm behind it 1, the stem comes after the first block
        first = numbers.num_blocks + 1
        depth = {"stem": first, "rest": 1}.get(part.kind, numbers.num_blocks - part.block)
        name = {"stem": "stem", "rest": "encoder.norm"}.get(part.kind, f"encoder.blocks.{part.block}")
        return _Placed(name, numbers.head_lr * numbers.layer_decay**depth)
    if part.kind == "stem":
        return _Placed("stem", numbers.encoder_lr)
    return _Placed("encoder", (numbers.encoder_lr + numbers.head_lr) / _BODY_DIVISOR)


def _lora(part: _Part, numbers: _Numbers) -> _Placed | None:
    """The head and the adapters, which start from nothing as the head does."""
    return _Placed("lora", numbers.head_lr) if part.kind == "lora" else _head(part, numbers)


_PLACES: dict[str, Callable[[_Part, _Numbers], _Placed | None]] = {
    "full": _full,
    "linear_probe": _head,
    "last_stage": _last_stage,
    "layer_decay": _layer_decay,
    "lora": _lora,
}

STRATEGIES = tuple(_PLACES)
"""Names of all strategies."""


def _part_of(name: str) -> _Part:
    """Read the part of a network off the name of a parameter."""
    if _ADAPTER in name and not name.endswith(_ORIGINAL):
        return _Part("lora")
    if name.startswith("decoder."):
        return _Part("head")
    match = _BLOCK.match(name)
    if match:
        return _Part("blocks", int(match[1]))
    return _Part("stem" if name.startswith(_STEM) else "rest")


def _num_blocks(names: list[str]) -> int:
    """Number of blocks of the encoder."""
    return 1 + max((_part_of(name).block for name in names), default=-1)


def _add(groups: dict[str, dict[str, Any]], name: str, parameter: nn.Parameter, placed: _Placed, decay: float) -> None:
    """Put a parameter into its group, which is made if need be."""
    spared = parameter.ndim < 2 or name.endswith(_NEVER_DECAYED)
    group_name = f"{placed.name}, no decay" if spared else placed.name
    empty = {"params": [], "lr": placed.lr, "weight_decay": 0.0 if spared else decay, "name": group_name}
    groups.setdefault(group_name, empty)["params"].append(parameter)


def _check(names: list[str], strategy: str, numbers: _Numbers) -> None:
    """Refuse what would train the wrong parameters, or none."""
    if strategy not in _PLACES:
        raise ValueError(f"`strategy` must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    _check_numbers(strategy, numbers)
    kinds = {_part_of(name).kind for name in names}
    if "head" not in kinds and not (strategy == "full" and numbers.head_lr == numbers.encoder_lr):
        raise ValueError(
            f"strategy={strategy!r} tells the head by the name `decoder.`, which no parameter of the network has. Give "
            "the network itself, not a wrapped one; train another network with strategy='full' and one learning rate."
        )
    if "lora" in kinds and strategy != "lora":
        raise ValueError(f"The network has LoRA adapters, strategy={strategy!r} has no place for them. Use 'lora'.")
    if "lora" not in kinds and strategy == "lora":
        raise ValueError("strategy='lora' needs adapters, the network has none. Call add_lora on it first.")


def _check_numbers(strategy: str, numbers: _Numbers) -> None:
    """Refuse numbers that are out of range."""
    for name in ("head_lr", "encoder_lr", "weight_decay"):
        value = getattr(numbers, name)
        if not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be finite and not negative, got {value}.")
    if strategy == "last_stage" and not 1 <= numbers.num_last <= numbers.num_blocks:
        raise ValueError(
            f"`num_last` must be from 1 to the encoder's {numbers.num_blocks} blocks, got {numbers.num_last}."
        )
    if numbers.layer_decay is not None and strategy != "layer_decay":
        raise ValueError(f"`layer_decay` belongs to strategy='layer_decay', got it with {strategy!r}. Leave it out.")
    if numbers.layer_decay is not None and not 0 < numbers.layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be above 0 and at most 1, got {numbers.layer_decay}. 0.75 is usual.")


def _log(strategy: str, groups: list[dict[str, Any]], frozen: dict[str, int]) -> None:
    """How much trains, and what does not."""
    trained = {group["name"]: _size(group["params"]) for group in groups}
    total = sum(trained.values()) + sum(frozen.values())
    kept = ", ".join(f"{kind} {size:,}" for kind, size in frozen.items()) or "nothing"
    logger.info(
        "strategy %s: %s of %s parameters train; frozen: %s", strategy, f"{sum(trained.values()):,}", f"{total:,}", kept
    )


def _size(parameters: list[torch.Tensor]) -> int:
    """Number of values."""
    return sum(parameter.numel() for parameter in parameters)
