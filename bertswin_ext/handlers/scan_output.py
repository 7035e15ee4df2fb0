"""What is left of every segmented scan: a folder of its own, and a table of all."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from bertswin_ext.data.phantoms.nifti_files import write_nifti
from bertswin_ext.data.reading.dicom_series import is_dicom_file
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.deployment.scan_segmentation import ScanAttempt, ScanLabels
from bertswin_ext.deployment.stages import counted
from bertswin_ext.errors import listed, listed_under
from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats
from bertswin_ext.networks.record import AdaptationRecord
from bertswin_ext.outputs.class_volumes import volumes_ml
from bertswin_ext.outputs.dicom_seg import SegAlgorithm, write_dicom_seg
from bertswin_ext.outputs.dicom_source import load_dicom_package
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import minimal_joint_space
from bertswin_ext.outputs.scan_preview import write_preview
from bertswin_ext.outputs.scan_report import ScanReport, scan_geometry
from bertswin_ext.outputs.scan_summary import write_summary
from bertswin_ext.outputs.surface_mesh import write_surface
from bertswin_ext.programs.program import Program

__all__ = ["DicomSeg", "ScanOutputHandler"]

logger = logging.getLogger(__name__)

DicomSeg = Literal["auto", "always", "never"]
_SURFACES = ("stl", "ply")


class ScanOutputHandler:
    """Write ``<output_dir>/<scan>/`` for every scan as soon as it is done, and ``<output_dir>/summary.csv``.

    A scan's folder has ``label.nii.gz`` in the geometry of the scan's file, ``label.dcm`` (DICOM SEG) for a DICOM
    series, ``preview.png``, a surface of each class, and ``report.json``. A scan that failed has a report that says
    why; the others go on, and the run ends with an error that names all that failed. What an earlier run wrote of a
    scan is replaced; the folder of another scan with the same name is left alone, and a number added.

    Args:
        output_dir: folder of all scans.
        program: what segments; its hash and its record are reported, its record names the classes.
        surfaces: formats of the surfaces, of "stl" and "ply"; none of them by default.
        dicom_seg: ``"auto"`` writes DICOM SEG for DICOM series where highdicom is installed, ``"always"`` ends a run
            early where it is not, ``"never"`` writes none.
        previews: whether to draw pictures.

    Raises:
        ValueError: a format or ``dicom_seg`` is another, or the program does not name its classes, or wants scans on
            another HU scale; at the end of the run, scans have failed.

    Example:
        >>> handler = ScanOutputHandler("out", load_program("model.ts"))  # doctest: +SKIP
        >>> handler.attach(evaluator)  # of `bertswin_ext.deployment.ScanSegmentation`  # doctest: +SKIP
    """

    def __init__(
        self,
        output_dir: str | Path,
        program: Program,
        surfaces: Sequence[str] = (),
        dicom_seg: DicomSeg = "auto",
        previews: bool = True,
    ) -> None:
        _check("surfaces", surfaces, _SURFACES)
        _check("dicom_seg", [dicom_seg], get_args(DicomSeg))
        if dicom_seg == "always":
            load_dicom_package("highdicom")
        if program.record.labels is None:
            raise ValueError(f"{program.path} does not name its classes. Export a network that segments.")
        # the pipeline turns scans to RAS and standardizes them by this version's constants
        wrong = program.record.differences(AdaptationRecord("", {}, "RAS", program.record.spacing_mm))
        if wrong:
            raise ValueError(listed(wrong, f"the record of {program.path}"))
        self.output_dir = Path(output_dir)
        self.program = program
        self.class_names = list(program.record.labels)
        self.surfaces = tuple(surfaces)
        self.dicom_seg = dicom_seg
        self.previews = previews
        self._reports: list[dict[str, Any]] = []
        self._folders: set[Path] = set()

    def attach(self, engine: Engine) -> None:
        """Write while the evaluator runs, and at its end."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, _engine: Engine) -> None:
        """Begin a new table."""
        self._reports, self._folders = [], set()

    def _iteration_completed(self, engine: Engine) -> None:
        """Write what there is of a scan."""
        attempt: ScanAttempt = engine.state.output
        folder = self._folder(attempt)
        report = ScanReport(folder.name, [attempt.place], error=attempt.error, seconds=attempt.seconds)
        report.weights_file, report.weights_sha256 = self.program.path, self.program.sha256
        report.record = self.program.record
        report.warnings = attempt.warnings
        if attempt.labels is not None:
            with attempt.guarded(), counted(attempt.seconds, "write"):
                self._write(attempt, attempt.labels, folder, report)
            report.error = attempt.error
        self._reports.append(report.write(folder / "report.json"))
        write_summary(self.output_dir / "summary.csv", self._reports)
        self._tell(attempt, folder)

    def _folder(self, attempt: ScanAttempt) -> Path:
        """The scan's folder without what an earlier run wrote of it; one of another scan is left alone."""
        number, folder = 1, self.output_dir / attempt.name
        while _inputs(folder) not in (None, [Path(attempt.place).as_posix()]) or folder in self._folders:
            number += 1
            folder = self.output_dir / f"{attempt.name}_{number}"
        self._folders.add(folder)
        surfaces = [f"{name}.{suffix}" for name in self.class_names[1:] for suffix in _SURFACES]
        for name in ("label.nii.gz", "label.dcm", "preview.png", "report.json", *surfaces):
            if (folder / name).is_file():
                (folder / name).unlink()
        return folder

    def _write(self, attempt: ScanAttempt, labels: ScanLabels, folder: Path, report: ScanReport) -> None:
        """Write the files of a scan that was segmented, and fill its report in."""
        affine, label = _affine(labels.scan), labels.label.as_tensor()[0].numpy()
        report.geometry = scan_geometry(labels.stored.shape[1:], _affine(labels.stored))
        report.volumes_ml = volumes_ml(label, affine, self.class_names)
        report.joints = [
            _joint_report(joint, box_mm, label, affine)
            for joint, box_mm in zip(labels.joints, labels.boxes_mm, strict=True)
        ]
        files: dict[str, str | Path | None] = {"label": folder / "label.nii.gz"}
        report.files = files
        with written_whole(folder / "label.nii.gz") as temporary:
            write_nifti(temporary, labels.stored.as_tensor()[0].numpy(), _affine(labels.stored))
        if self._wants_dicom_seg(attempt):
            files["dicom_seg"] = self._write_dicom_seg(labels.stored, attempt, folder)
        for number, name in enumerate(self.class_names[1:], start=1):
            for suffix in self.surfaces:
                path = folder / f"{name}.{suffix}"
                files[f"{name}_{suffix}"] = path if write_surface(label, affine, number, path) else None
        if self.previews:
            files["preview"] = folder / "preview.png"
            image = labels.scan.as_tensor()[0].numpy()
            write_preview(
                folder / "preview.png",
                image,
                label,
                affine,
                report.joints,
                self.class_names,
                attempt.name,
                attempt.warnings,
            )

    def _wants_dicom_seg(self, attempt: ScanAttempt) -> bool:
        """Whether DICOM SEG is to be written for a scan."""
        return self.dicom_seg != "never" and _is_dicom(Path(attempt.item["image"]))

    def _write_dicom_seg(self, stored: MetaTensor, attempt: ScanAttempt, folder: Path) -> Path | None:
        """The label map as DICOM SEG; None where that is not possible and not demanded."""
        path = folder / "label.dcm"
        algorithm = SegAlgorithm(weights_sha256=self.program.sha256)
        label = stored.as_tensor()[0].numpy()
        try:
            write_dicom_seg(label, _affine(stored), attempt.item["image"], path, self.class_names, algorithm=algorithm)
        except (ImportError, ValueError) as error:
            if self.dicom_seg == "always":
                raise
            logger.warning("no DICOM SEG: %s", error)
            return None
        return path

    def _tell(self, attempt: ScanAttempt, folder: Path) -> None:
        """Say what became of a scan."""
        if attempt.error is not None:
            logger.error("%s: %s", attempt.name, attempt.error)
            return
        joints = ", ".join(joint.name for joint in attempt.labels.joints) if attempt.labels else ""
        logger.info("%s: %s in %.1f s, written to %s", attempt.name, joints, sum(attempt.seconds.values()), folder)

    def _completed(self, _engine: Engine) -> None:
        """Say which scans failed."""
        failed = [f"{report['scan']}: {report['error']}" for report in self._reports if report["error"] is not None]
        if failed:
            count = f"{len(failed)} of {len(self._reports)} scans were not segmented; what there is is in"
            raise ValueError(listed_under(f"{count} {self.output_dir}", failed))


def _joint_report(
    joint: ScanJoint, box_mm: tuple[float, float, float], label: npt.NDArray[np.uint8], affine: Floats
) -> JointReport:
    """What is reported of a joint."""
    center = joint.center_mm
    space = None if center is None else minimal_joint_space(label, affine, center, joint.joint)
    return JointReport(joint.joint, center, joint.confidence, space, box_mm)


def _affine(volume: MetaTensor) -> Floats:
    """Voxel to RAS world."""
    return np.asarray(volume.affine.numpy(force=True), dtype=np.float64)


def _inputs(folder: Path) -> list[str] | None:
    """What the report in a folder is about; None if there is none."""
    try:
        return list(json.loads((folder / "report.json").read_text(encoding="utf-8"))["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_dicom(path: Path) -> bool:
    """Whether a scan is a DICOM series or file."""
    return any(map(is_dicom_file, path.iterdir())) if path.is_dir() else is_dicom_file(path)


def _check(argument: str, values: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise if a value is none of those that there are."""
    wrong = [value for value in values if value not in allowed]
    if isinstance(values, str) or wrong:
        raise ValueError(f"`{argument}` must be of {', '.join(map(repr, allowed))}, got {values!r}.")
