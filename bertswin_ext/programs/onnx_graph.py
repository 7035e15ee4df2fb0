"""ONNX programs (``.onnx``), run by onnxruntime; they need the extra ``[onnx]``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from bertswin_ext.programs.exported import exported_graph, quiet
from bertswin_ext.programs.passport import RECORD_FILE

__all__ = ["read_onnx", "write_onnx"]

_INPUT, _OUTPUT = "image", "pred"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def write_onnx(network: nn.Module, example: torch.Tensor, text: str) -> bytes:
    """Export a network to ONNX, with one input ``image`` and one output ``pred``.

    Args:
        network: in eval mode.
        example: an input, see `exported_graph`.
        text: what is kept as ``record.json`` among the file's metadata.

    Returns:
        The file.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    _needed("onnxscript")
    with quiet():
        exported: Any = torch.onnx.export(
            exported_graph(network, example),
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    model = exported.model_proto
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        # names of source files
        del part.metadata_props[:]
    model.metadata_props.add(key=RECORD_FILE, value=text)
    return model.SerializeToString(deterministic=True)


def read_onnx(data: bytes, device: torch.device) -> tuple[nn.Module, str | None]:
    """The network of a file, and its ``record.json``.

    Args:
        data: the file.
        device: ``cpu`` or ``cuda``, the latter with onnxruntime-gpu.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        ValueError: the file is torn, keeps its weights in other files, or onnxruntime cannot use the device.
    """
    onnx, runtime = _needed("onnx"), _needed("onnxruntime")
    model = onnx.load_model_from_string(data)
    if any(message.DESCRIPTOR.name == "TensorProto" and message.external_data for message in _messages(model)):
        raise ValueError("it keeps weights in other files.")
    texts = {entry.key: entry.value for entry in model.metadata_props}
    return _Session(runtime, data, device), texts.get(RECORD_FILE)


class _Session(nn.Module):
    """Onnxruntime in the place of a network."""

    def __init__(self, runtime: Any, data: bytes, device: torch.device) -> None:
        super().__init__()
        provider = _PROVIDERS.get(device.type)
        if provider not in runtime.get_available_providers():
            raise ValueError(
                f"this onnxruntime cannot run it on {device}, only on {', '.join(runtime.get_available_providers())}. "
                "Choose device='cpu', or install onnxruntime-gpu in the place of onnxruntime."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = runtime.InferenceSession(data, options, providers=[provider])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits, on the image's device; the values go through main memory."""
        (logits,) = self._session.run([_OUTPUT], {_INPUT: image.detach().float().cpu().numpy()})
        return torch.from_numpy(logits).to(image.device)


def _needed(name: str) -> Any:
    """A package of the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'ONNX programs need {name} ({error}): pip install "bertswin-ext[onnx]"') from error


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from _messages(inner)
