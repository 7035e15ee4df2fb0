"""Floating point operations of an iteration."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bertswin_ext.handlers.profiling.operation_count import OperationCount

PARTS = ["data", "rest", "prepare", "forward", "loss", "backward", "step", "rest", None]


def count_of(network, work):
    """Do the work of each part; the count of all."""
    count = OperationCount(network)
    for part in PARTS:
        count.enter(part)
        work.get(part, lambda: None)()
    return count.operations


def test_forward_and_backward_of_a_layer_by_hand():
    layer, inputs = nn.Linear(3, 4), torch.ones(2, 3)
    outputs = []
    forward = lambda: outputs.append(layer(inputs))  # noqa: E731
    # 2 * 2 * 3 * 4 forward, as much again for the gradient of the weight; the inputs need none
    assert count_of(layer, {"forward": forward, "backward": lambda: outputs[0].sum().backward()}) == 96


def test_nothing_but_the_network_and_its_gradients_counts():
    layer = nn.Linear(3, 4)

    def product():
        torch.ones(5, 5) @ torch.ones(5, 5)

    assert count_of(layer, dict.fromkeys(("data", "rest", "prepare"), product)) == 0


def test_attention_counts_on_a_cpu_as_elsewhere():
    query = torch.randn(2, 4, 10, 8, requires_grad=True)
    outputs = []
    operations = count_of(
        nn.Identity(),
        {
            "forward": lambda: outputs.append(F.scaled_dot_product_attention(query, query, query)),
            "backward": lambda: outputs[0].sum().backward(),
        },
    )
    forward = 2 * (2 * 2 * 4 * 10 * 10 * 8)
    # the backward pass computes the weights of attention once more
    assert operations == forward + forward * 5 // 2


def test_the_counter_is_gone_afterwards():
    network = nn.Linear(3, 4)
    count = OperationCount(network)
    count.enter("forward")
    count.stop()
    network(torch.ones(2, 3))
    assert count.operations == 0
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


@pytest.mark.parametrize("compiled", [torch.compile(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4))])
def test_compiled_networks_are_left_alone(compiled):
    if isinstance(compiled, nn.Sequential):
        compiled[0].compile()
    count = OperationCount(compiled)
    count.enter("forward")
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    count.enter("rest")
    assert count.operations is None


def test_sharded_networks_are_left_alone():
    class Part(torch.Tensor):
        """What stands for a tensor of which every process has a part."""

    network = nn.Linear(3, 4)
    network.weight = nn.Parameter(torch.ones(4, 3).as_subclass(Part))
    count = OperationCount(network)
    count.enter("forward")
    count.enter("rest")
    assert count.operations is None
