"""What `pretrain_step.py` finds out before it measures time: agreement, memory, FLOPs, kernels, batch."""

from __future__ import annotations

import gc
import re
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from step.arms import OURS, OURS_ONE, PLAIN, PLAIN_ONE, SIZES, Arm, Size, is_compiled, make_arm
from step.setting import WARM_UP, Setting, losses_of, peak, prepare, random_volumes, start_of_memory, step

SHARE_OF_MEMORY, MOST_VOLUMES = 0.8, 1024
# a gradient that is zero but for rounding is compared with the largest of all
NEGLIGIBLE = 1e-7
MEGABYTE, GIGA = 1e6, 1e9


def look_at(name: str, size: str, batch: int, setting: Setting) -> dict[str, Any]:
    """Memory, FLOPs, kernels, and the batch where none is given."""
    prepare(setting)
    before = start_of_memory(setting)
    arm = make_arm(name, SIZES[size], setting.device)
    memory_batch = SIZES[size].batch if setting.device == "cuda" else batch or SIZES[size].batch
    volumes = random_volumes(arm, SIZES[size], memory_batch, setting)
    for _ in range(WARM_UP):
        step(arm, volumes, setting)
    memory = (peak(setting) - before) / MEGABYTE
    found = {
        "memory_mb": memory,
        "memory_batch": memory_batch,
        "parameters": sum(parameter.numel() for parameter in arm.network.parameters()),
        "kept_mb": kept(arm, volumes, setting) / MEGABYTE,
        "gflop": 0.0 if is_compiled(name) else flops(arm, volumes, setting) / memory_batch / GIGA,
        "attention": attention(arm, volumes, setting),
    }
    del volumes
    found["batch"] = batch or fitting_batch(arm, SIZES[size], setting)
    del arm
    gc.collect()
    tensors = memory if setting.device == "cuda" else tensor_peak(name, SIZES[size], memory_batch, setting) / MEGABYTE
    return found | {"tensors_mb": tensors}


def tensor_peak(name: str, size: Size, batch: int, setting: Setting) -> float:
    """Most bytes that tensors take at once, from making the network to its second step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        arm = make_arm(name, size, setting.device)
        volumes = random_volumes(arm, size, batch, setting)
        for _ in range(WARM_UP):
            step(arm, volumes, setting)
    return max(accumulate(_changes(profiler)))


def _changes(profiler: profile) -> list[int]:
    """Bytes taken and, below zero, given back, in their order."""
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def kept(arm: Arm, volumes: torch.Tensor, setting: Setting) -> float:
    """Bytes that forward pass and losses leave for the backward pass."""
    if setting.device == "cuda":
        before = torch.cuda.memory_allocated()
        losses = losses_of(arm, volumes, setting)
        found = float(torch.cuda.memory_allocated() - before)
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            losses = losses_of(arm, volumes, setting)
        found = float(sum(_changes(profiler)))
    del losses
    return found


def flops(arm: Arm, volumes: torch.Tensor, setting: Setting) -> float:
    """Matrix products and convolutions of forward and backward passes."""
    with FlopCounterMode(display=False) as counter:
        arm.method.backward(losses_of(arm, volumes, setting))
    arm.method.decide()
    arm.method.clear()
    return float(counter.get_total_flops())


def attention(arm: Arm, volumes: torch.Tensor, setting: Setting) -> str:
    """What computes the attention of the forward pass, by its names in torch's profile."""
    on_gpu = setting.device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        losses_of(arm, volumes, setting)
        if on_gpu:
            torch.cuda.synchronize()
    names = {event.key for event in profiler.key_averages()}
    operations = {name.removeprefix("aten::_") for name in names if name.startswith("aten::_scaled_dot_product")}
    kernels = {_short(name) for name in names if on_gpu and _is_attention(name) and not name.startswith("aten::")}
    return "; ".join([*sorted(operations), *sorted(kernels)[:2]]) or "products and softmax"


def _short(kernel: str) -> str:
    """A kernel's name without its arguments."""
    return re.split(r"[(<]", kernel.removeprefix("void "))[0]


def _is_attention(kernel: str) -> bool:
    return any(part in kernel.lower() for part in ("fmha", "flash", "attention", "sdpa"))


def fitting_batch(arm: Arm, size: Size, setting: Setting) -> int:
    """The size's own batch; on a GPU as many volumes as fill four fifths of it, along a straight line."""
    if setting.device != "cuda":
        return size.batch
    limit = SHARE_OF_MEMORY * torch.cuda.get_device_properties(0).total_memory
    batch, before = 1, _peak_of(arm, size, 1, setting)
    while 2 * batch <= MOST_VOLUMES:
        now = _peak_of(arm, size, 2 * batch, setting)
        if now is None or before is None:
            return batch
        if now > limit / 2 and now > before:
            return max(1, 2 * batch + int((limit - now) // ((now - before) / batch)))
        batch, before = 2 * batch, now
    return batch


def _peak_of(arm: Arm, size: Size, batch: int, setting: Setting) -> float | None:
    """Bytes of a step; None if the GPU has less."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        step(arm, random_volumes(arm, size, batch, setting), setting)
    except torch.OutOfMemoryError:
        return None
    return peak(setting)


def deviation(size: str, conducted: bool, setting: Setting) -> float:
    """Largest relative difference between losses and gradients of the two BertsWin, in float64.

    They get equal weights, volumes and masks. With the conductor, the gradients of the three losses and the one made of
    them are compared, else that of their sum.
    """
    prepare(setting)
    numbers = SIZES[size]
    volumes = torch.randn(numbers.batch, 1, *3 * [numbers.img_size], device=setting.device, dtype=torch.float64)
    noise = torch.rand(numbers.batch, (numbers.img_size // numbers.patch_size) ** 3, device=setting.device)
    weights: dict[str, torch.Tensor] = {}
    found = []
    for name in (OURS, PLAIN) if conducted else (OURS_ONE, PLAIN_ONE):
        arm = make_arm(name, numbers, setting.device, torch.float64)
        weights = weights or {key: value.clone() for key, value in arm.network.state_dict().items()}
        arm.network.load_state_dict(weights)
        found.append(_results(arm, volumes, noise))
    return _difference(*found)


def _results(arm: Arm, volumes: torch.Tensor, noise: torch.Tensor) -> list[list[torch.Tensor]]:
    """The losses, the gradient of each, and the one made of them, every tensor by tensor."""
    parameters = [parameter for _, parameter in sorted(arm.network.named_parameters())]
    losses = arm.losses(arm.network(volumes, noise=noise), volumes)
    each = [list(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses.values()]
    arm.method.backward(losses)
    arm.method.decide()
    made = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return [[torch.stack([loss.detach() for loss in losses.values()])], *each, made]


def _difference(ours: list[list[torch.Tensor]], others: list[list[torch.Tensor]]) -> float:
    """Of the tensors' entries, relative to the largest one of the tensor."""
    found = [0.0]
    for own, other in zip(ours, others, strict=True):
        largest = max(float(tensor.abs().max()) for tensor in other)
        for one, two in zip(own, other, strict=True):
            found.append(float((one - two).abs().max()) / max(float(two.abs().max()), NEGLIGIBLE * largest))
    return max(found)
