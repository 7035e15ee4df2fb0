"""TorchScript programs (``.ts``): a traced network, which MONAI Label and C++ run without any Python code of ours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.jit._trace import TracerWarning

from bertswin_ext.programs.archive import archive_records, write_archive
from bertswin_ext.programs.passport import RECORD_FILE

__all__ = ["read_torchscript", "write_torchscript"]

_MANGLED = re.compile(rb"___torch_mangle_(\d+)")
_SOURCE_LINES = ".debug_pkl"
_VERSIONS = ("version", ".data/version")
# the two operations with file names, code that runs while a file is read, and operations that are not torch's own
_NO_NETWORK = re.compile(rb"__setstate__|\b(save|from_file)\b|\bops\b(?!\.prim\.)|getattr\([^)\n]*\\")


def write_torchscript(network: nn.Module, example: torch.Tensor, text: str) -> bytes:
    """Trace a network.

    Args:
        network: in eval mode.
        example: an input (b, c, i, j, k); other b will do afterwards, other sizes will not.
        text: what is kept as ``record.json``.

    Returns:
        The file: the same bytes for the same network, in any process.
    """
    buffer = io.BytesIO()
    with _quiet(), torch.no_grad():
        # a class gets a numbered name when its plain one is taken; after a first trace all of them are
        torch.jit.trace(network, example, check_trace=False)
        traced = torch.jit.trace(network, example, check_trace=False, _store_inputs=False)
        # MONAI reads metadata.json of every program, and does not take one without
        torch.jit.save(traced, buffer, _extra_files={RECORD_FILE: text, "metadata.json": "{}"})
    return _canonical(buffer.getvalue())


def read_torchscript(data: bytes, device: torch.device) -> tuple[nn.Module, str | None]:
    """The network of a file, and its ``record.json``.

    TorchScript's own reader makes tensors and TorchScript objects only; it runs no Python. What a program in its own
    language could do beyond tensors, such as writing other files, is refused before.

    Args:
        data: the file.
        device: where the network shall run.

    Raises:
        ValueError: the file is torn, or has operations that no network needs.
        RuntimeError: it is no TorchScript.
    """
    _refuse_code(data)
    extra: dict[str, str | bytes] = {RECORD_FILE: ""}
    with _quiet():
        module = torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=extra)
    _move_constants(module, device)
    found = extra[RECORD_FILE]
    return module.eval(), (found.decode() if isinstance(found, bytes) else found) or None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what tracing says about every size that it reads, and about its own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", TracerWarning)
        yield


def _canonical(data: bytes) -> bytes:
    """The archive with its classes numbered from 0, in a fixed order, without the paths of source files."""
    records = {name: content for name, content in archive_records(data).items() if not name.endswith(_SOURCE_LINES)}
    numbers = sorted({int(number) for name in records for number in _MANGLED.findall(name.encode())})
    places = {number: place for place, number in enumerate(numbers)}

    def renumbered(text: bytes) -> bytes:
        return _MANGLED.sub(lambda found: b"___torch_mangle_%d" % places[int(found[1])], text)

    version = next(int(records[name]) for name in _VERSIONS if name in records)
    texts = {name for name in records if name.endswith((".py", "data.pkl"))}
    changed = {name: renumbered(content) if name in texts else content for name, content in records.items()}
    return write_archive({renumbered(name.encode()).decode(): content for name, content in changed.items()}, version)


def _refuse_code(data: bytes) -> None:
    """TorchScript is a language of its own; a network needs the tensor operations in it and no others."""
    for name, content in archive_records(data).items():
        found = _NO_NETWORK.search(content) if name.endswith(".py") else None
        if found:
            raise ValueError(f"{name} uses {found[0].decode()!r}, which is no operation of a network.")


def _move_constants(module: nn.Module, device: torch.device) -> None:
    """Have tensors that are made on the way made on the device, not where the trace was taken."""
    parts: list[Any] = [part._c for part in module.modules()]
    for forward in (part._get_method("forward") for part in parts if part._has_method("forward")):
        for constant in forward.graph.findAllNodes("prim::Constant", recurse=True):
            if str(constant.output().type()) == "Device":
                constant.s_("value", str(device))
