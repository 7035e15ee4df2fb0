"""Exported networks, read back without running Python code from the file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn

from bertswin_ext.errors import times
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.programs.exported import read_exported
from bertswin_ext.programs.onnx_graph import read_onnx
from bertswin_ext.programs.passport import EXPORT_AGAIN, Passport
from bertswin_ext.programs.torchscript import read_torchscript

__all__ = ["PROGRAM_SUFFIXES", "Program", "load_program", "program_of", "program_suffix"]

logger = logging.getLogger(__name__)

_Reader = Callable[[bytes, torch.device], tuple[nn.Module, str | None]]
_READERS: dict[str, _Reader] = {".ts": read_torchscript, ".pt2": read_exported, ".onnx": read_onnx}
PROGRAM_SUFFIXES = tuple(_READERS)
"""Formats of programs."""


class Program(nn.Module):
    """An exported network: volumes of one size in, logits out.

    Args:
        network: what computes the logits.
        passport: what it takes.
        path: the file that it came from.
        sha256: hash of that file.

    Attributes:
        record: what the weights expect of their input.
        in_channels: channels of the input.
        img_size: voxels of the input (i, j, k), the window of `bertswin_ext.inferers.sliding_window`.
        path: the file.
        sha256: its hash.

    Shape:
        - Input: (b, in_channels, *img_size), any b.
        - Output: logits (b, classes, *img_size).
    """

    def __init__(self, network: nn.Module, passport: Passport, path: Path, sha256: str) -> None:
        super().__init__()
        self.network = network
        self.record: AdaptationRecord = passport.record
        self.in_channels = passport.in_channels
        self.img_size = passport.img_size
        self.path = path
        self.sha256 = sha256

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of volumes, or of windows of them.

        Raises:
            ValueError: the input has another size or number of channels.
        """
        if image.ndim != 5 or tuple(image.shape[1:]) != (self.in_channels, *self.img_size):
            raise ValueError(
                f"{self.path} takes (batch, {self.in_channels}, {', '.join(map(str, self.img_size))}), got "
                f"{tuple(image.shape)}. Cut larger volumes into windows of {times(self.img_size)} voxels: "
                "bertswin_ext.inferers.sliding_window(roi_size=program.img_size, ...)."
            )
        return self.network(image.as_tensor() if isinstance(image, MetaTensor) else image)


def load_program(path: str | Path, device: torch.device | str = "cpu") -> Program:
    """Read an exported network; its suffix names the format.

    No Python code of the file is run: what a file of this format could run while it is read is refused before.

    Args:
        path: a file of `export_program`.
        device: where it shall run.

    Returns:
        The program, in eval mode.

    Raises:
        ValueError: the file is missing, torn, of another format, holds what could run code, or has no record.
    """
    program_suffix(path)
    if not Path(path).is_file():
        raise ValueError(f"Program {path} does not exist. Check the path.")
    program = program_of(Path(path).read_bytes(), path, device)
    logger.info("program %s of a %s, sha256 %s", path, program.record.method, program.sha256)
    return program


def program_of(data: bytes, path: str | Path, device: torch.device | str = "cpu") -> Program:
    """The program in the content of a file; see `load_program`.

    Args:
        data: what the file holds.
        path: the file; its suffix names the format.
        device: where the program shall run.
    """
    reader = _READERS[program_suffix(path)]
    try:
        network, text = reader(data, torch.device(device))
    except ImportError:
        raise
    except Exception as error:  # every library has its own words for a file that is no network
        raise ValueError(f"Program {path} cannot be read: {_first_line(error)} {_REMEDY}") from error
    passport = Passport.from_text(text, f"Program {path}")
    return Program(network, passport, Path(path), hashlib.sha256(data).hexdigest()).eval()


_REMEDY = f"It is torn or holds other things than a network. Copy it again. {EXPORT_AGAIN}"


def program_suffix(path: str | Path) -> str:
    """The format that a file's name says.

    Raises:
        ValueError: it names none.

    Example:
        >>> program_suffix("models/model.ts")
        '.ts'
    """
    suffix = Path(path).suffix
    if suffix not in _READERS:
        raise ValueError(
            f"{path} has the suffix {suffix or 'none'!r}: a program ends in {', '.join(PROGRAM_SUFFIXES)}. Weights "
            f"(.pt) have to be exported first. {EXPORT_AGAIN}"
        )
    return suffix


def _first_line(error: Any) -> str:
    """The reason alone, without the stack of C++."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
