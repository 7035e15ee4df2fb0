"""TensorRT, for those who have it: MONAI's compiler on a network."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import torch
from monai.networks import trt_compile
from torch import nn

__all__ = ["compile_tensorrt"]

logger = logging.getLogger(__name__)

_PACKAGES = ("tensorrt", "polygraphy", "onnx", "onnxscript")


def compile_tensorrt(
    network: nn.Module, path: str | Path, sw_batch_size: int = 1, precision: str = "fp16"
) -> nn.Module:
    """Let TensorRT run a network from its first input on.

    Without TensorRT MONAI's ``trt_compile`` leaves a network as it is, with a line in the log. Here that is an error:
    who asks for TensorRT wants to know.

    Args:
        network: on the GPU; its ``forward`` is replaced.
        path: the weights. The engine is kept beside them as ``<path>.plan`` and built again when they are newer.
        sw_batch_size: windows that go through the network together; the last ones of a volume may be fewer.
        precision: ``"fp32"``, ``"tf32"``, ``"fp16"`` or ``"bf16"``.

    Returns:
        The network itself.

    Raises:
        ValueError: there is no NVIDIA GPU, or a package is missing; the message names them.
    """
    lacking = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if lacking or not torch.cuda.is_available():
        found = f"missing: {', '.join(lacking)}" if lacking else "torch sees no NVIDIA GPU"
        raise ValueError(
            f"TensorRT needs an NVIDIA GPU and the packages {', '.join(_PACKAGES)} ({found}). Install them, or "
            "leave tensorrt.json out: inference.json runs without it."
        )
    logger.info("TensorRT builds %s.plan at the first window, which takes minutes", path)
    batch = {"dynamic_batchsize": [1, sw_batch_size, sw_batch_size]} if sw_batch_size > 1 else {}
    return trt_compile(network, str(path), args={"precision": precision, **batch})
