"""The report of a segmented scan: what went in, what came out, how, and how long it took."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch

from bertswin_ext.files import written_whole
from bertswin_ext.geometry import spacing_of
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.versions import versions_of

__all__ = ["DISCLAIMER", "REPORT_VERSION", "ScanReport", "peak_memory_mb", "scan_geometry"]

DISCLAIMER = "Research only. Not a medical device."

REPORT_VERSION = 1
"""Raised when an entry of ``report.json`` is taken away or gets another meaning."""


@dataclass
class ScanReport:
    """What ``report.json`` says of a scan; fill it in stage by stage, a failed scan keeps what is known by then.

    The file has these entries, in this order; lengths are mm, positions RAS world:

    ===================  =============================================================================================
    ``report_version``   version of this list
    ``notice``           that this is no medical device
    ``scan``             name of the scan and of its folder
    ``status``           ``"completed"`` or ``"failed"``
    ``error``            why it failed, or null
    ``warnings``         list of sentences
    ``created_utc``      when the report was written
    ``inputs``           files or folders that were read
    ``geometry``         ``size`` in voxels, ``spacing_mm``, ``axes`` (such as LPS: where i, j, k grow to), ``affine``
                         (voxel to RAS world, 4 x 4) of the file; null if it was not read
    ``volumes_ml``       volume of each class by name, of what was segmented
    ``joints``           one entry each: ``joint``, ``center_mm``, ``center_origin`` ("given", "found" or "none"),
                         ``confidence``, ``box_mm`` (edges of the segmented box), ``joint_space_mm`` (least distance of
                         the bones), ``joint_space_at_mandible_mm``, ``joint_space_at_skull_mm``,
                         ``joint_space_missing_because``
    ``files``            what was written, relative to the report; null for what could not be written
    ``weights``          ``file``, ``sha256`` and ``record`` (what the weights expect of their input) of the program
    ``seconds``          seconds by stage, and their ``total``
    ``peak_memory_mb``   most memory that the process had until then, and ``gpu_peak_memory_mb`` of the device, or null
    ``versions``         of bertswin_ext, monai, torch, numpy and python
    ===================  =============================================================================================

    Attributes:
        name: the scan's.
        inputs: what was read.
        geometry: see `scan_geometry`.
        volumes_ml: by class.
        joints: the joints that were segmented.
        files: name -> path, as ``{"label": ".../label.nii.gz"}``; None for what could not be written.
        weights_file: of the program.
        weights_sha256: hash of that file.
        record: what the weights expect.
        seconds: by stage.
        warnings: for the user.
        error: why it failed.

    Example:
        >>> report = ScanReport("P1", [Path("P1.nii.gz")], error="P1.nii.gz: no such file.")
        >>> report.to_json()["status"]
        'failed'
    """

    name: str
    inputs: Sequence[str | Path]
    geometry: dict[str, Any] | None = None
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    joints: Sequence[JointReport] = ()
    files: Mapping[str, str | Path | None] = field(default_factory=dict)
    weights_file: str | Path | None = None
    weights_sha256: str | None = None
    record: AdaptationRecord | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "report_version": REPORT_VERSION,
            "notice": DISCLAIMER,
            "scan": self.name,
            "status": "completed" if self.error is None else "failed",
            "error": self.error,
            "warnings": list(self.warnings),
            "created_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "inputs": [_written(path) for path in self.inputs],
            "geometry": self.geometry,
            "volumes_ml": {name: round(float(ml), 4) for name, ml in self.volumes_ml.items()},
            "joints": [joint.to_json() for joint in self.joints],
            "files": {name: None if path is None else _written(path) for name, path in self.files.items()},
            "weights": {
                "file": None if self.weights_file is None else _written(self.weights_file),
                "sha256": self.weights_sha256,
                "record": None if self.record is None else self.record.to_plain(),
            },
            "seconds": _with_total(self.seconds),
            "peak_memory_mb": peak_memory_mb(),
            "gpu_peak_memory_mb": _gpu_peak_memory_mb(),
            "versions": versions_of("bertswin_ext", "monai", "torch", "numpy"),
        }

    def write(self, path: str | Path) -> dict[str, Any]:
        """Write the report; paths of ``files`` in its folder become relative to it.

        Args:
            path: the file, by convention ``report.json``; its folder is made.

        Returns:
            What was written.
        """
        folder = Path(path).parent
        report = self.to_json()
        report["files"] = {name: _relative(file, folder) for name, file in report["files"].items()}
        text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
        with written_whole(path) as temporary:
            temporary.write_text(f"{text}\n", encoding="utf-8")
        return report


def scan_geometry(shape: Sequence[int], affine: npt.ArrayLike) -> dict[str, Any]:
    """The grid of a scan, for its report.

    Args:
        shape: voxels (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).

    Example:
        >>> scan_geometry((4, 5, 6), np.diag([-0.4, -0.4, 0.5, 1.0]))["axes"]
        'LPS'
    """
    matrix = np.asarray(affine, dtype=np.float64)
    return {
        "size": [int(size) for size in shape],
        "spacing_mm": [round(mm, 6) for mm in spacing_of(matrix).tolist()],
        "axes": "".join(nibabel.orientations.aff2axcodes(matrix)),
        "affine": matrix.round(6).tolist(),
    }


def peak_memory_mb() -> float | None:
    """The most memory that this process has had so far, in units of 2^20 bytes; None where the system does not say."""
    try:
        resource = import_module("resource")  # not on Windows
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return round(int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit / 2**20, 1)


def _gpu_peak_memory_mb() -> float | None:
    """The same for tensors on the GPU; None if it was not used."""
    if not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds to the millisecond, with their sum."""
    return {name: round(float(time), 3) for name, time in {**seconds, "total": sum(seconds.values())}.items()}


def _written(path: str | Path) -> str:
    """A path with slashes, on every system."""
    return Path(path).as_posix()


def _relative(path: str | None, folder: Path) -> str | None:
    """A path as seen from a folder, if it is inside."""
    if path is None or not Path(path).is_relative_to(folder):
        return path
    return Path(path).relative_to(folder).as_posix()
