"""What the processes that share a step tell each other."""

from __future__ import annotations

from itertools import chain

import torch.distributed as dist
from torch import nn

from bertswin_ext.optimizers.gradient_bank import GradientBank

__all__ = ["RowMessages", "first_rank", "make_equal"]


class RowMessages:
    """Rows become their sums over the processes, each in a message of its own.

    A row can be sent while the gradients of other losses are computed. All processes send all rows of a step in the
    same order, so they need not agree on when.

    Args:
        group: the processes that share the work; by default all.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self._sent: list[dist.Work] = []

    @property
    def num_processes(self) -> int:
        """How many there are."""
        return dist.get_world_size(self.group)

    @property
    def summed(self) -> list[int]:
        """Of how many processes each of the first rows, those that are sent, is the sum."""
        return [self.num_processes for _ in self._sent]

    def send(self, bank: GradientBank, num_rows: int) -> None:
        """Begin to sum the first rows of a bank, but for those that are sent; from now on they must not grow."""
        for index in range(len(self._sent), num_rows):
            self._sent.append(dist.all_reduce(bank.row(index), group=self.group, async_op=True))

    def wait(self) -> None:
        """Return when what was sent is summed; on a GPU, have what is computed next wait for it."""
        for message in self._sent:
            message.wait()

    def clear(self) -> None:
        """Wait, and begin another step."""
        self.wait()
        self._sent.clear()


def make_equal(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    """All processes start from the first one's parameters and buffers."""
    for tensor in chain(model.parameters(), model.buffers()):
        dist.broadcast(tensor.detach(), src=first_rank(group), group=group)


def first_rank(group: dist.ProcessGroup | None) -> int:
    """The group's first process, by its number among all."""
    return 0 if group is None else dist.get_global_rank(group, 0)
