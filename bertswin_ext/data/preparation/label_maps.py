"""A folder of label maps: which of them belongs to which scan."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bertswin_ext.data.reading.volume_reader import volume_suffix
from bertswin_ext.data.reading.volume_search import volume_stem

__all__ = ["LabelMaps"]

_SEPARATORS = "-_. "


class LabelMaps:
    """The label maps of a folder, each belonging to one scan by its place and name.

    ``a.nii.gz`` has the label map ``a.nii.gz``, ``a_seg.nrrd``, ``a-label.nii`` or ``a_mandible.nii.gz``, at the same
    place below the folder or directly in it. A file that also fits the longer name of another scan is that one's.

    Args:
        folder: the folder.
        scans: names of all scans, paths below the input.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folder: str | Path, scans: Iterable[str]) -> None:
        self._folder = Path(os.path.abspath(Path(folder).expanduser()))
        self._scans = sorted(scans)
        if not self._folder.is_dir():
            raise ValueError(
                f"`labels` {self._folder} is not a folder. Give the folder that holds the label maps of the scans."
            )

    def of(self, scan: str, path: Path) -> Path | None:
        """The label map of a scan, or None.

        Args:
            scan: its name, one of those given before.
            path: its file or DICOM folder, which is no label map.

        Raises:
            ValueError: several files fit the scan, or one fits several scans.
        """
        parent = PurePosixPath(scan).parent
        beside = [other for other in self._scans if PurePosixPath(other).parent == parent]
        for place, others in ((self._folder / parent, beside), (self._folder, self._scans)):
            if found := self._at(place, scan, path, others):
                return found
        return None

    def _at(self, place: Path, scan: str, path: Path, others: Iterable[str]) -> Path | None:
        """The label map of a scan in one folder, in which those of some other scans may lie as well."""
        own = os.path.realpath(path)
        files = sorted(place.iterdir()) if place.is_dir() else []
        fits = {file: _grade(file, scan) for file in files if volume_suffix(file) and os.path.realpath(file) != own}
        best = max(fits.values(), default=0)
        chosen = [f for f in fits if fits[f] == best > 0 and max(_grade(f, other) for other in others) == best]
        if len(chosen) > 1:
            names = ", ".join(file.name for file in chosen)
            raise ValueError(f"{place} holds several label maps of {scan}: {names}. Leave one of them there.")
        for file in chosen:
            _check_its_own(file, scan, others)
        return chosen[0] if chosen else None


def _grade(file: Path, scan: str) -> int:
    """How well a label map's name fits a scan's, 0 if it does not: a longer part is better, and best is the whole."""
    name, stem = volume_stem(file), volume_stem(Path(scan))
    if not name.startswith(stem) or name[len(stem) : len(stem) + 1] not in ("", *_SEPARATORS):
        return 0
    return 2 * len(stem) + (name == stem)


def _check_its_own(file: Path, scan: str, others: Iterable[str]) -> None:
    """Raise if a label map is as much another scan's."""
    also = [other for other in others if other != scan and _grade(file, other) == _grade(file, scan)]
    if also:
        raise ValueError(
            f"the label map {file} fits {scan} and {also[0]}. Tell them apart by the folders: below the folder of "
            "label maps as below that of the scans."
        )
