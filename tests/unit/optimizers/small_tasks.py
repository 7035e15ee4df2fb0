"""Small models for the conductor: a point whose gradients are chosen, and a network with losses that disagree."""

import io

import torch
from torch import nn

from bertswin_ext.optimizers import GradientConductor

TASKS = "abcde"
WEIGHTS = {"far": 1.0, "flat": 0.25, "near": 0.5}


class Point(nn.Module):
    """A place: the gradient of ``row @ place`` is the row."""

    def __init__(self, size):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(size))


def row_losses(point, rows):
    """A loss for every row, by the letters of the alphabet."""
    return {task: row @ point.place for task, row in zip(TASKS, torch.as_tensor(rows), strict=False)}


def conducted(rows, loss_weights=None, **kwargs):
    """A point and its conductor after one step with chosen gradients."""
    rows = torch.tensor(rows)
    point = Point(rows.shape[1])
    conductor = GradientConductor(point, loss_weights or dict.fromkeys(TASKS[: len(rows)], 1.0), **kwargs)
    conductor.accumulate(row_losses(point, rows))
    assert conductor.conduct()
    return point, conductor


def make_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def make_batches(count, seed=0, size=8):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 5, generator=generator) for _ in range(count)]


def losses_of(network, x):
    """Three losses that pull the output to different places."""
    output = network(x)
    return {"far": (output - 2).square().mean(), "flat": output.abs().mean(), "near": (output + 1).square().mean()}


def train(network, conductor, optimizer, batches, scheduler=None):
    """Statistics of every step."""
    steps = []
    for x in batches:
        losses = losses_of(network, x)
        if conductor.accumulate({task: losses[task] for task in conductor.due_tasks}):
            if conductor.conduct():
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
            steps.append(conductor.last_step)
    return steps


def values(network):
    """Copies of the parameters."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def gradients(network):
    """Copies of the gradients."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()}


def same(first, second):
    """Whether two sets of tensors are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
