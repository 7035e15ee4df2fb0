"""How many floating point operations an iteration has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["OperationCount"]

Shape: TypeAlias = Sequence[int]


class OperationCount:
    """Count the operations of the network and its gradients in one iteration, by torch's own counter.

    Products of matrices, convolutions and attention count; a multiplication and an addition are two. What the iteration
    computes stays the same; it only takes longer.

    Args:
        network: what is trained. Nothing is counted if it is compiled, which the counter would undo, or sharded.

    Example:
        >>> network = torch.nn.Linear(3, 4)
        >>> count = OperationCount(network)
        >>> count.enter("forward")
        >>> _ = network(torch.ones(2, 3))
        >>> count.enter("rest")
        >>> count.operations
        48
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.operations: int | None = None
        self._counter: FlopCounterMode | None = None
        self._can_count = not _is_special(network)

    def enter(self, part: str | None) -> None:
        """Count from the forward pass to the optimizer's step.

        Args:
            part: the part of the iteration that begins.
        """
        if part == "forward" and self._can_count:
            self._counter = FlopCounterMode(display=False, custom_mapping=_on_cpu())
            self._counter.__enter__()
        elif part == "rest" and self._counter is not None:
            self.stop()

    def stop(self) -> None:
        """Count no more."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.operations = int(self._counter.get_total_flops())
            self._counter = None


def _on_cpu() -> dict[Any, Any]:
    """What torch's counter does not know: attention on a CPU has the operations of attention elsewhere."""
    return {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Two products: of queries and keys, of weights and values."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (width + value[3])


def _attention_backward(_gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Five products: the weights once more, and the gradients of weights, values, queries and keys."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[2] * (3 * width + 2 * value[3])


def _is_special(network: torch.nn.Module) -> bool:
    """Whether a network is compiled or has parameters that are not whole tensors."""
    modules: list[Any] = list(network.modules())
    is_compiled = any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None for module in modules
    )
    return is_compiled or any(type(parameter.data) is not torch.Tensor for parameter in network.parameters())
