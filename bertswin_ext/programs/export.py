"""Networks as programs: files that run without the code which built them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.utils import ensure_tuple_rep
from torch import nn
from torch.nn.utils import parametrize

from bertswin_ext.files import written_whole
from bertswin_ext.networks.lora import merged_state_dict
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.programs.agreement import Agreement, compare_logits, ct_like
from bertswin_ext.programs.exported import write_exported
from bertswin_ext.programs.onnx_graph import write_onnx
from bertswin_ext.programs.passport import Passport
from bertswin_ext.programs.program import PROGRAM_SUFFIXES, Program, program_of, program_suffix
from bertswin_ext.programs.torchscript import write_torchscript

__all__ = ["export_program", "export_programs"]

logger = logging.getLogger(__name__)

_Writer = Callable[[nn.Module, torch.Tensor, str], bytes]
_WRITERS: dict[str, _Writer] = {".ts": write_torchscript, ".pt2": write_exported, ".onnx": write_onnx}
_BATCH_SIZES = (1, 2)
_SAME_LABELS = 0.9999


def export_program(
    network: nn.Module,
    record: AdaptationRecord,
    path: str | Path,
    atol: float = 1e-4,
    img_size: int | Sequence[int] | None = None,
) -> Program:
    """Write a network as a program, read it back, and compare the two.

    The program takes any batch of volumes of one size; larger ones go through a sliding window.

    Args:
        network: gives one tensor of logits for (b, c, i, j, k). It is not changed: a copy is exported, in eval mode,
            on the CPU, with LoRA adapters folded in.
        record: what its weights expect of their input; is kept inside the file.
        path: the file, whose suffix is the format: ``.ts`` (TorchScript), ``.pt2`` (`torch.export`) or ``.onnx``.
        atol: greatest difference of a logit between network and program.
        img_size: voxels of the input, one number or one per axis; by default that of ``record.arguments``.

    Returns:
        The program as `load_program` reads it.

    Raises:
        ValueError: the suffix names no format, the size of the input is not known, or the program does not compute
            what the network does, in which case no file is left.

    Example:
        >>> import tempfile
        >>> from bertswin_ext.networks.presets import bertswin_segmenter_tiny
        >>> network = bertswin_segmenter_tiny()
        >>> record = AdaptationRecord.of(network, spacing_mm=0.8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     program = export_program(network, record, f"{folder}/model.ts")
        >>> program.record == record
        True
    """
    writer, file = _WRITERS[program_suffix(path)], Path(path)
    passport = Passport(record, int(record.arguments.get("in_channels", 1)), _window(record, img_size))
    merged = _merged_copy(network).cpu().float().eval().requires_grad_(False)
    shape = (passport.in_channels, *passport.img_size)
    images = [ct_like((size, *shape), seed=size) for size in _BATCH_SIZES]
    expected = [_logits(merged, image) for image in images]
    with written_whole(file) as temporary:
        temporary.write_bytes(writer(merged, images[-1], passport.to_text()))
        program = program_of(temporary.read_bytes(), file)
        for image, logits in zip(images, expected, strict=True):
            _check(compare_logits(logits, _logits(program, image)), len(image), file, atol)
    logger.info("%s exported to %s, sha256 %s", record.method, file, program.sha256)
    return program


def export_programs(
    network: nn.Module,
    record: AdaptationRecord,
    folder: str | Path,
    formats: Sequence[str] = ("ts", "pt2"),
    img_size: int | Sequence[int] | None = None,
    atol: float = 1e-4,
) -> list[Program]:
    """Write a network in several formats: ``model.ts``, ``model.pt2``, ``model.onnx``.

    Args:
        network: see `export_program`.
        record: what its weights expect of their input.
        folder: where the files go.
        formats: any of ``ts``, ``pt2`` and ``onnx``.
        img_size: voxels of the input; by default that of ``record.arguments``.
        atol: greatest difference of a logit between network and program.

    Returns:
        The programs.

    Raises:
        ValueError: no format is named, or an unknown one; or see `export_program`.
    """
    suffixes = [f".{name.lstrip('.')}" for name in formats]
    if not suffixes or set(suffixes) - set(PROGRAM_SUFFIXES):
        known = ", ".join(suffix[1:] for suffix in PROGRAM_SUFFIXES)
        raise ValueError(f"`formats` must name some of {known}, got {list(formats)}.")
    return [export_program(network, record, Path(folder) / f"model{suffix}", atol, img_size) for suffix in suffixes]


def _merged_copy(network: nn.Module) -> nn.Module:
    """The network without adapters, which are in the weights; the original keeps its own."""
    copied = copy.deepcopy(network)
    for name, module in list(copied.named_modules()):
        # not merge_lora: it would take the weight from the class, which copy and original share
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            copied.set_submodule(name, nn.Linear(module.in_features, module.out_features, module.bias is not None))
    copied.load_state_dict(merged_state_dict(network))
    return copied


def _window(record: AdaptationRecord, img_size: int | Sequence[int] | None) -> tuple[int, int, int]:
    """Voxels of the input."""
    size = record.arguments.get("img_size") if img_size is None else img_size
    if size is None:
        raise ValueError(
            f"The record of a {record.method} does not say which size the input has. Give `img_size`, the window that "
            "the network was trained on."
        )
    i, j, k = (int(edge) for edge in ensure_tuple_rep(size, 3))
    return i, j, k


@torch.no_grad()
def _logits(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What a network makes of an image: one tensor of the image's size."""
    logits = network(image)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(found, tuple) or found[:1] + found[2:] != image.shape[:1] + image.shape[2:]:
        raise ValueError(
            f"The network must give logits (b, classes, i, j, k) of the input's size, got {found} for an input of "
            f"{tuple(image.shape)}. Export the part of it that does."
        )
    return logits


def _check(agreement: Agreement, batch_size: int, file: Path, atol: float) -> None:
    """A program that says something else than its network is worth nothing."""
    largest, same = agreement.largest, agreement.same_labels
    if not (largest <= atol and same > _SAME_LABELS):
        raise ValueError(
            f"The program {file} does not compute what its network does: for a batch of {batch_size} the logits differ "
            f"by up to {largest:.3g} (at most {atol:g} is allowed) and {same:.4%} of the labels are the same (more "
            f"than {_SAME_LABELS:.2%} are asked for). Export in another format, or with a larger `atol`."
        )
    logger.info("batch of %d: logits differ by %.2g at most, %.4f %% same labels", batch_size, largest, 100 * same)
