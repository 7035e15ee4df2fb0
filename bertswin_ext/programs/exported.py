"""Programs of `torch.export` (``.pt2``): the network as a graph of plain tensor operations, for torch and compilers."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.passes import move_to_device_pass

from bertswin_ext.programs.exported_safety import refuse_code
from bertswin_ext.programs.passport import RECORD_FILE

__all__ = ["exported_graph", "read_exported", "write_exported"]

_NOISY = ("torch.export", "torch._export", "torch.onnx", "onnxscript", "onnx_ir")


def exported_graph(network: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """The operations of a network, any number of volumes at a time.

    Args:
        network: in eval mode.
        example: an input (b, c, i, j, k) with b of at least 2; other b will do afterwards, other sizes will not.

    Returns:
        The graph, without the example and without names of source files.
    """
    program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program._example_inputs = None
    return program


def write_exported(network: nn.Module, example: torch.Tensor, text: str) -> bytes:
    """Export a network.

    Args:
        network: in eval mode.
        example: an input, see `exported_graph`.
        text: what is kept as ``record.json``.

    Returns:
        The file: the same bytes for the same network.
    """
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(exported_graph(network, example), buffer, extra_files={RECORD_FILE: text})
    return buffer.getvalue()


def read_exported(data: bytes, device: torch.device) -> tuple[nn.Module, str | None]:
    """The network of a file, and its ``record.json``.

    Args:
        data: the file.
        device: where the network shall run.

    Raises:
        ValueError: the file is torn, or holds what `torch.export.load` would run, see `refuse_code`.
    """
    refuse_code(data)
    extra = {RECORD_FILE: ""}
    with quiet():
        program = torch.export.load(io.BytesIO(data), extra_files=extra)
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        return _OneMode(program.module()), extra[RECORD_FILE] or None


class _OneMode(nn.Module):
    """A graph that has been exported in eval mode and knows no other."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph

    def train(self, mode: bool = True) -> _OneMode:
        """Nothing to switch; the graph itself would refuse."""
        self.training = False
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.graph(image)


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's notes on what it has skipped."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
