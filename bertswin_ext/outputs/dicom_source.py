"""What a DICOM SEG must say of the images it was made from: who, which study, which files, where in space."""

from __future__ import annotations

import hashlib
import logging
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bertswin_ext.data.reading.dicom_series import is_dicom_file, is_segmentation_file
from bertswin_ext.errors import VolumeError, listed
from bertswin_ext.geometry import Floats

__all__ = ["DicomSource", "load_dicom_package", "quiet_dicom", "read_dicom_source"]

Dataset = Any

_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_SHARED = ("PatientID", "PatientName", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
_PLANE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
_COPIED = (
    "SpecificCharacterSet",
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved"),
    *("DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName"),
    "PositionReferenceIndicator",
)
_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate")
_OTHER = ("Rows", "Columns", "SliceThickness", "NumberOfFrames", "LossyImageCompression")
_REMEDY = "\nTake the original export, or let missing UIDs be made up (`replace_missing_uids`)."
_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class DicomSource:
    """The images of a series, without their pixels.

    Attributes:
        images: one data set for each file with what names and places it, and nothing of the patient.
        about: what the files say of patient and study, word for word.
        sop_class: kind of the images.
        has_planes: every file is one slice with a place of its own, not a whole volume.
        is_known: the files have UIDs of their own, by which they can be referred to.
    """

    images: list[Dataset]
    about: Dataset
    sop_class: str
    has_planes: bool
    is_known: bool

    @property
    def axes(self) -> Floats | None:
        """Unit vectors (LPS) across the slices, along a column and along a row, as columns (3, 3); None if unknown."""
        if not self.has_planes:
            return None
        along, down = np.array(self.images[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        return np.stack([np.cross(along, down), down, along], axis=1)


def load_dicom_package(name: str) -> Any:
    """An optional package: ``pydicom``, ``highdicom`` or a module of theirs.

    Raises:
        ImportError: it is not installed, with the command that installs it.

    Example:
        >>> load_dicom_package("highdicom.seg").__name__  # doctest: +SKIP
        'highdicom.seg'
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f'DICOM SEG needs {name} ({error}): pip install "bertswin-ext[dicom]"') from error


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """Within, the DICOM packages neither log nor warn: their messages quote names and identifiers of patients."""
    logger = logging.getLogger("highdicom")
    level, config = logger.level, load_dicom_package("pydicom.config")
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_dicom_source(series: str | Path, replace_missing_uids: bool = False) -> DicomSource:
    """Read the headers of a series, and of them only what a segmentation repeats or refers to.

    Args:
        series: the folder of the series, or one multi-frame file.
        replace_missing_uids: make up what the files lack to be told apart, as some tools that remove names empty it: a
            study, a series and a frame of reference, always the same for the same files. Nothing is referred to then.

    Returns:
        The images, in the order of their names.

    Raises:
        ImportError: pydicom is not installed.
        VolumeError: there is no DICOM image, or the headers cannot be used; all faults are listed. Nothing that the
            files say of the patient is quoted.

    Example:
        >>> source = read_dicom_source("scans/series_2")  # doctest: +SKIP
        >>> len(source.images), source.is_known  # doctest: +SKIP
        (320, True)
    """
    path = Path(series)
    files = _files(path)
    with quiet_dicom():
        headers = [_read(file) for file in files]
        lacking = _lacking(headers)
        if lacking and replace_missing_uids:
            _make_up(headers, files[0])
        faults = [*([] if replace_missing_uids else lacking), *_contradictions(headers), *_misplaced(headers)]
        if faults:
            raise VolumeError(listed(faults, str(path)) + (_REMEDY if lacking else ""))
        return _source(headers, is_known=not lacking)


def _files(path: Path) -> list[Path]:
    """The image files of a series."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if is_dicom_file(p)) if path.is_dir() else []
    files = [file for file in files if is_dicom_file(file) and not is_segmentation_file(file)]
    if not files:
        raise VolumeError(f"{path}: must be a DICOM image or the folder that directly holds the images of a series.")
    return files


def _read(path: Path) -> Dataset:
    """The tags of a file that are used here."""
    pydicom = load_dicom_package("pydicom")
    tags = [*_IDENTITY, *_PLANE, *_COPIED, *_OTHER]
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)
    except Exception as error:  # pydicom raises what its parts raise; their text may quote the patient
        raise VolumeError(f"{path}: the DICOM header cannot be read ({type(error).__name__}). Copy it again.") from None


def _lacking(headers: Sequence[Dataset]) -> list[str]:
    """Say which UIDs are missing, and in how many files."""
    counts = {name: sum(not header.get(name) for header in headers) for name in _IDENTITY}
    return [f"{name} is missing or empty in {n} of {len(headers)} files" for name, n in counts.items() if n]


def _contradictions(headers: Sequence[Dataset]) -> list[str]:
    """Say what must be the same in all files of a series and is not, and UIDs that come twice."""
    mixed = [name for name in _SHARED if len({str(header.get(name) or "") for header in headers}) > 1]
    faults = [f"{name} is not the same in all files; they are not one series of one patient" for name in mixed]
    names = [str(header.SOPInstanceUID) for header in headers if header.get("SOPInstanceUID")]
    if len(set(names)) < len(names):
        faults.append(f"SOPInstanceUID: {len(names) - len(set(names))} files have that of another file")
    return faults


def _misplaced(headers: Sequence[Dataset]) -> list[str]:
    """Say which tags that place a slice are missing; a volume in one file keeps most of them elsewhere."""
    needed = {"Rows": 1, "Columns": 1} | ({} if _is_volume(headers) else _PLANE)
    lacking = {
        name: sum(header.get(name) is None or np.size(header.get(name)) != size for header in headers)
        for name, size in needed.items()
    }
    return [f"{name} is missing in {n} of {len(headers)} files" for name, n in lacking.items() if n]


def _is_volume(headers: Sequence[Dataset]) -> bool:
    """Whether the series is one file with many slices."""
    return len(headers) == 1 and int(headers[0].get("NumberOfFrames") or 1) > 1


def _make_up(headers: Sequence[Dataset], first: Path) -> None:
    """Fill in missing UIDs, made from the content of the first file."""
    with first.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    for index, header in enumerate(headers):
        made_up = {name: _uid(f"{content} {name}") for name in _IDENTITY}
        made_up |= {"SOPClassUID": _CT_IMAGE, "SOPInstanceUID": _uid(f"{content} image {index}")}
        for name, value in made_up.items():
            if not header.get(name):
                setattr(header, name, value)


def _uid(text: str) -> str:
    """A UID made from a text (the UUID-derived kind of DICOM PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, text).int}"


def _source(headers: Sequence[Dataset], is_known: bool) -> DicomSource:
    """Part what places an image from what is said of the patient."""
    about = load_dicom_package("pydicom").Dataset()
    for name in _COPIED:
        if name in headers[0]:
            about.add(headers[0][name])
    volume = _is_volume(headers)
    images = [_stand_in(header, headers[0], volume) for header in headers]
    return DicomSource(images, about, str(headers[0].SOPClassUID), not volume, is_known)


def _stand_in(header: Dataset, first: Dataset, is_volume: bool) -> Dataset:
    """An image as highdicom wants it: complete, single-frame, and of a patient without a name."""
    image = load_dicom_package("pydicom").Dataset()
    for name in _EMPTY:
        setattr(image, name, "")
    image.StudyTime, image.Modality = "", "CT"
    for name in (*_IDENTITY, "Rows", "Columns"):
        setattr(image, name, header[name].value)
    # highdicom knows the kinds of the standard only, and wants headers for each slice of some
    image.SOPClassUID = _CT_IMAGE
    image.LossyImageCompression = header.get("LossyImageCompression") or "00"
    image.SliceThickness = header.get("SliceThickness")
    if not is_volume:
        image.ImagePositionPatient = header.ImagePositionPatient
        # highdicom wants it equal to the last digit
        image.ImageOrientationPatient, image.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    return image
