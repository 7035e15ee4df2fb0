"""A network of blocks with parameters that are awkward to cut: odd, short and single."""

import torch
from torch import nn

from bertswin_ext.networks.sharding import shard_network

WEIGHTS = {"far": 1.0, "flat": 0.25, "near": 0.5}


class Block(nn.Sequential):
    """What is gathered on its own."""


class Blocks(nn.Module):
    """Linear blocks, and what stands around them."""

    def __init__(self, width=12, num_blocks=2):
        super().__init__()
        self.first = nn.Linear(5, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.ModuleList(Block(nn.Linear(width, width), nn.Tanh()) for _ in range(num_blocks))
        self.last = nn.Linear(width, 3)
        self.register_buffer("offset", torch.randn(3))

    def forward(self, x):
        x = self.first(x) + self.token[0]
        for block in self.blocks:
            x = x + block(x)
        return self.last(x) + self.offset


def make_blocks(seed=0, **kwargs):
    torch.manual_seed(seed)
    return Blocks(**kwargs)


def shard_blocks(network, **kwargs):
    return shard_network(network, "cpu", blocks=[Block], **kwargs)


def make_batch(step, rank, place=0):
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1000 * step + 10 * rank + place))


def losses_of(network, x):
    """Three losses that pull the output to different places."""
    output = network(x)
    return {"far": (output - 2).square().mean(), "flat": output.abs().mean(), "near": (output + 1).square().mean()}


def whole(network):
    """All tensors of a network by name, also where they are dealt out."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: t.detach().full_tensor() if hasattr(t, "full_tensor") else t.clone() for name, t in tensors.items()}


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)
