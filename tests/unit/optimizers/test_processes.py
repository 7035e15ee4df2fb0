"""What can be said of messages in a group of one; two processes are in tests/distributed/test_conductor.py."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from bertswin_ext.optimizers import GradientBank
from bertswin_ext.optimizers.processes import RowMessages, first_rank, make_equal


@pytest.fixture
def _alone():
    """A group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def bank_of(*rows):
    """A bank whose rows are given."""
    place = nn.Parameter(torch.zeros(len(rows[0])))
    bank = GradientBank({"place": place}, len(rows))
    for task, row in enumerate(rows):
        bank.accumulate(task, place @ torch.tensor(row), 1.0)
    return bank


@pytest.mark.usefixtures("_alone")
def test_each_row_is_sent_once():
    bank, messages = bank_of([1.0, 2.0], [3.0, 4.0], [5.0, 6.0]), RowMessages()
    assert messages.summed == []
    for num_rows, expected in ((0, 0), (2, 2), (1, 2), (3, 3)):
        messages.send(bank, num_rows)
        assert messages.summed == [1] * expected
    messages.clear()
    assert messages.summed == []
    assert bank.rows[:, :2].tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.usefixtures("_alone")
def test_a_row_that_got_nothing_is_sent_as_zeros():
    bank, messages = bank_of([1.0, 2.0], [3.0, 4.0]), RowMessages()
    bank.combine(torch.ones(2))
    bank.accumulate(0, bank.parameters[0].sum(), 1.0)
    messages.send(bank, 2)
    messages.clear()
    assert bank.rows[:, :2].tolist() == [[1.0, 1.0], [0.0, 0.0]]


@pytest.mark.usefixtures("_alone")
def test_waiting_twice():
    bank, messages = bank_of([1.0, 2.0]), RowMessages()
    messages.send(bank, 1)
    messages.wait()
    messages.wait()
    assert messages.summed == [1]


@pytest.mark.usefixtures("_alone")
def test_the_first_process_keeps_its_weights():
    model = nn.BatchNorm1d(2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_equal(model, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert first_rank(None) == first_rank(dist.group.WORLD) == 0
