"""What `pretrain_step.py` times: a turn of a method, and the product of two matrices."""

from __future__ import annotations

import torch

from step.arms import SIZES, Arm, make_arm
from step.rows import PARTS
from step.setting import WARM_UP, Setting, Watch, prepare, random_volumes, step

ENOUGH_SECONDS = 10.0
GEMM_EDGE = {"cpu": 2048, "cuda": 8192}


def measure(name: str, size: str, batch: int, setting: Setting) -> dict[str, float]:
    """Seconds of the parts of a step: the middle one of several."""
    prepare(setting)
    arm = make_arm(name, SIZES[size], setting.device)
    volumes = random_volumes(arm, SIZES[size], batch, setting)
    several(WARM_UP, arm, volumes, setting)
    found = several(SIZES[size].steps, arm, volumes, setting)
    return dict(zip(PARTS, sorted(found, key=sum)[(len(found) - 1) // 2], strict=True))


def several(count: int, arm: Arm, volumes: torch.Tensor, setting: Setting) -> list[list[float]]:
    """Seconds of a number of steps, of fewer if they are slow."""
    found: list[list[float]] = []
    while len(found) < count and sum(map(sum, found)) < ENOUGH_SECONDS:
        found.append(step(arm, volumes, setting))
    return found


def ceiling(setting: Setting) -> float:
    """FLOP/s of the product of two large matrices, the best of several."""
    prepare(setting)
    edge = GEMM_EDGE[setting.device]
    dtype = getattr(torch, setting.dtype)
    left, right = (torch.randn(edge, edge, device=setting.device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        watch = Watch(setting)
        torch.mm(left, right)
        watch.mark()
        best = min(best, *watch.seconds())
    return 2 * edge**3 / best
