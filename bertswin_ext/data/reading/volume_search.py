"""Find the volumes of a folder that has no datalist, and whose they are."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from bertswin_ext.data.reading.dicom_series import is_dicom_file, is_segmentation_file
from bertswin_ext.data.reading.volume_reader import VOLUME_SUFFIXES, volume_suffix

logger = logging.getLogger(__name__)

_LABEL_FOLDER = re.compile(r"label.*|seg|segmentations?|masks?")
_LABEL_WORD = re.compile(r"(^|[-_.])(labels?|seg|segmentations?|masks?)([-_.]|$)")
_IMAGE_FOLDER = re.compile(r"images?(tr|ts|va|_?train|_?test|_?val)?")
_BIDS_SUBJECT = re.compile(r"(sub-[a-zA-Z0-9]+)")


def find_volumes(folder: Path) -> list[tuple[Path, str]]:
    """Find all volumes below a folder, with their patients.

    Volumes are NIfTI, NRRD and MetaImage files, and folders that directly hold DICOM files. Files in folders
    named like labels (``labelsTr``, ``segmentations``, ``masks``) and files whose names hold the word label, seg,
    segmentation or mask (``a_seg``, ``a-label``, ``a_mask_2``) are left out, and so are DICOM segmentations; every
    skipped file is logged.

    The patient is the BIDS subject (``sub-01``) in the path, else the first folder below ``folder`` (unless it
    only says that these are images, as ``imagesTr``), else the file name without its suffix.

    Args:
        folder: where to look, at any depth; linked folders are followed.

    Returns:
        Pairs of path and patient, in alphabetical order of the paths.

    Raises:
        ValueError: if nothing is found.
    """
    found = sorted(_walk(folder))
    if not found:
        raise ValueError(
            f"{folder} holds no volumes. Looked for {', '.join(VOLUME_SUFFIXES)} and folders with DICOM files "
            "(.dcm, or 'DICM' at byte 128), and left out labels; the log names every skipped file."
        )
    return [(path, _patient(path, folder)) for path in found]


def volume_stem(path: Path) -> str:
    """Return the name of a volume file without its suffix, or the name of a folder."""
    suffix = volume_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.name


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the volumes below a folder; log what is skipped."""
    seen: set[str] = set()
    labels = 0
    for root, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:  # a link back up
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        names = [part.lower() for part in Path(root).relative_to(folder).parts]
        is_label_folder = any(_LABEL_FOLDER.fullmatch(name) for name in names)
        series = False
        for path in sorted(Path(root) / name for name in files):
            reason = _reason_to_skip(path, is_label_folder)
            if reason:
                labels += reason.startswith("label")
                logger.info("skipped %s: %s", path, reason)
            elif volume_suffix(path):
                yield path
            else:
                series = True
        if series:
            yield Path(root)
    if labels:
        logger.warning("%s: skipped %d files that look like labels", folder, labels)


def _reason_to_skip(path: Path, is_label_folder: bool) -> str:
    """Say why a file is not an image volume or a DICOM file; empty if it is."""
    if path.name.startswith("."):
        return "hidden file"
    if not volume_suffix(path) and not is_dicom_file(path):
        return "not a volume"
    if is_label_folder:
        return "label (by its folder)"
    if not volume_suffix(path) and is_segmentation_file(path):
        return "label (a DICOM segmentation)"
    if volume_suffix(path) and _LABEL_WORD.search(volume_stem(path).lower()):
        return "label (by its name)"
    return ""


def _patient(path: Path, folder: Path) -> str:
    """Name the patient of a volume found below a folder."""
    parts = path.relative_to(folder).parts
    for part in parts:
        subject = _BIDS_SUBJECT.match(part)
        if subject:
            return subject.group(1)
    above = [part for part in parts[:-1] if not _IMAGE_FOLDER.fullmatch(part.lower())]
    return above[0] if above else volume_stem(path)
