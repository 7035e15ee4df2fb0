"""Where the joints of a scan are, from landmarks set by hand: 3D Slicer markups or a CSV table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from bertswin_ext.data.datalist import JOINTS
from bertswin_ext.data.preparation.markups import as_finite, in_ras, read_label, read_markups, read_system
from bertswin_ext.data.reading.volume_search import volume_stem
from bertswin_ext.errors import listed

__all__ = ["JointCenter", "Landmarks", "load_landmarks"]

Fit = tuple[int, int]
Centers = tuple["JointCenter", ...]

MARKUPS_SUFFIX = ".mrk.json"

_COORDINATES = ("x", "y", "z")
_SEPARATORS = "-_. "


@dataclass(frozen=True)
class JointCenter:
    """Where one temporomandibular joint is.

    Args:
        joint: the patient's side, ``"left"`` or ``"right"``.
        center_mm: position in the RAS world.
        origin: where this is known from, in words.

    Example:
        >>> JointCenter("left", (-48.0, 10.5, -3.0), 'landmark "L_condyle" of a.mrk.json').joint
        'left'
    """

    joint: str
    center_mm: tuple[float, float, float]
    origin: str


class Landmarks:
    """Joints set by hand, each belonging to one scan by its name; made by `load_landmarks`."""

    def __init__(self, entries: Sequence[_Entry]):
        self._entries = tuple(entries)
        self._scans: dict[int, list[Path]] = {}

    def of(self, scan: Path, patient: str) -> list[JointCenter]:
        """Find the joints of a scan.

        Ask for every scan first and then again: a landmark that fits two scans is refused to the first of them only
        once the second has been asked for.

        Args:
            scan: the volume's file or DICOM folder.
            patient: name of the patient.

        Returns:
            At most one centre per joint, left before right; empty if no landmark is named after this scan.

        Raises:
            ValueError: there are two landmarks for one joint of the scan, or one landmark fits two scans.
        """
        fits = {index: fit for index, entry in enumerate(self._entries) if (fit := entry.fit(scan, str(patient)))}
        best = [index for index, fit in fits.items() if fit == max(fits.values())]
        for index in best:
            self._claim(index, scan)
        centers = [center for index in best for center in self._entries[index].centers]
        _check_one_per_joint(scan, centers)
        return sorted(centers, key=lambda center: center.joint)

    def unused(self) -> list[str]:
        """Name the files or lines that belong to none of the scans asked for so far."""
        return [entry.name for index, entry in enumerate(self._entries) if index not in self._scans]

    def _claim(self, index: int, scan: Path) -> None:
        """Note whose landmark this is; refuse one of several scans."""
        scans = self._scans.setdefault(index, [])
        if scan not in scans:
            scans.append(scan)
        if len(scans) > 1:
            raise ValueError(
                f"the landmark {self._entries[index].name} fits {len(scans)} scans, {' and '.join(map(str, scans))}. "
                "Tell them apart: by the name of the markups file or its folder, by more of the scan's path in a CSV."
            )


def load_landmarks(path: str | Path, single: bool = False) -> Landmarks:
    """Load the joints that were marked in 3D Slicer or listed in a table.

    **Markups** (``.mrk.json``), one file or a folder of them at any depth. A file belongs to the scan whose name
    without suffix it bears (``a.mrk.json`` for ``a.nii.gz``), else to one whose name it starts with before one of
    ``-_. `` (``a_left.mrk.json``), else in the same two ways to a patient. Of several files that fit equally well,
    those in a folder named like the scan's, or like the patient, are taken. Which point is which joint is told by
    its label, see `bertswin_ext.data.preparation.markups.read_label`.

    **CSV** with a header: ``scan`` or ``patient`` (of both, both must fit), ``joint``, ``x``, ``y``, ``z`` in mm,
    and optionally ``coordinate_system``, ``RAS`` (default) or ``LPS``. ``scan`` is a file name with or without its
    suffix, after as many of its folders as it takes to tell it from others. Cells are parted by commas, semicolons
    or tabs.

    Args:
        path: the ``.mrk.json`` or ``.csv`` file, or the folder of markups.
        single: there is only one scan, so that a lone ``.mrk.json`` file is its own, whatever its name.

    Returns:
        The landmarks, to be asked scan by scan.

    Raises:
        ValueError: there is nothing to load, or with all faults of the files at once.

    Example:
        >>> landmarks = load_landmarks("landmarks/")  # doctest: +SKIP
        >>> [center.joint for center in landmarks.of(Path("scans/a.nii.gz"), "a")]  # doctest: +SKIP
        ['left', 'right']
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"the landmarks {path} do not exist. Give a {MARKUPS_SUFFIX} file, a folder of them or a CSV.")
    if path.is_dir():
        return Landmarks(_from_folder(path))
    if path.name.endswith(MARKUPS_SUFFIX):
        return Landmarks(_from_markups([path], path.parent, path, single))
    if path.suffix.lower() == ".csv":
        return Landmarks(_from_csv(path))
    raise ValueError(
        f"{path}: unknown kind of landmarks. Give a {MARKUPS_SUFFIX} file (3D Slicer saves a .fcsv as one), a folder "
        "of them, or a .csv table."
    )


def _check_one_per_joint(scan: Path, centers: list[JointCenter]) -> None:
    """Refuse two files or lines that mark the same joint of a scan."""
    for joint in JOINTS:
        origins = [center.origin for center in centers if center.joint == joint]
        if len(origins) > 1:
            raise ValueError(f"{scan}: the {joint} joint is marked by {' and by '.join(origins)}. Keep one of them.")


# --- which scan ---


class _Entry(Protocol):
    """Joints that belong to one scan."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def centers(self) -> Centers:
        """The joints, at most one per side."""

    def fit(self, scan: Path, patient: str) -> Fit | None:
        """Say how well it fits a scan, the more the better; None if it does not."""


@dataclass(frozen=True)
class _File:
    """A markups file: its name without suffix, and the folders between the one given and the file."""

    name: str
    centers: Centers
    stem: str
    folders: tuple[str, ...]
    fits_all: bool

    def fit(self, scan: Path, patient: str) -> Fit | None:
        """Compare the name first with the scan's, then with the patient's, and then the folders."""
        if self.fits_all:
            return 1, 0
        by_scan, by_patient = self._grade(volume_stem(scan)), self._grade(patient)
        grade = 2 + by_scan if by_scan else by_patient
        shared = _shared_end(self.folders, scan.parent.parts) or int(patient in self.folders)
        return (grade, shared) if grade else None

    def _grade(self, name: str) -> int:
        """2: bears the name, 1: starts with it, 0: neither."""
        if self.stem == name:
            return 2
        return int(bool(name) and self.stem.startswith(name) and self.stem[len(name)] in _SEPARATORS)


def _shared_end(parts: Sequence[str], others: Sequence[str]) -> int:
    """Count the last folders that two paths have in common."""
    same = [a == b for a, b in zip(reversed(parts), reversed(others), strict=False)]
    return [*same, False].index(False)


@dataclass(frozen=True)
class _Line:
    """A line of a CSV."""

    name: str
    centers: Centers
    scan: str
    patient: str

    def fit(self, scan: Path, patient: str) -> Fit | None:
        """Say whether all that the line names fits."""
        return (1, 0) if self.patient in ("", patient) and (not self.scan or self._names(scan)) else None

    def _names(self, scan: Path) -> bool:
        """Compare with the end of a path, with and without the volume's suffix."""
        wanted = PurePosixPath(self.scan.replace("\\", "/")).parts
        end = scan.parts[-len(wanted) :]
        return wanted in (end, (*end[:-1], volume_stem(scan)))


# --- markups ---


def _from_folder(folder: Path) -> list[_File]:
    """Read all markups files below a folder."""
    files = sorted(path for path in folder.rglob(f"*{MARKUPS_SUFFIX}") if not path.name.startswith("."))
    if not files:
        raise ValueError(f"{folder} holds no {MARKUPS_SUFFIX} files. Save the points of each scan as one in 3D Slicer.")
    return _from_markups(files, folder, folder, fits_all=False)


def _from_markups(files: Sequence[Path], root: Path, source: Path, fits_all: bool) -> list[_File]:
    """Read markups files; raise the faults of all of them."""
    entries: list[_File] = []
    faults: list[str] = []
    for name in [path.relative_to(root) for path in files]:
        try:
            centers = _centers(root, name)
        except ValueError as fault:
            faults.append(f"{name.as_posix()}: {fault}")
        else:
            stem = name.name.removesuffix(MARKUPS_SUFFIX)
            entries.append(_File(name.as_posix(), centers, stem, name.parent.parts, fits_all))
    if faults:
        raise ValueError(listed(faults, str(source)))
    return entries


def _centers(root: Path, name: Path) -> Centers:
    """Read the joints of a markups file."""
    return tuple(
        JointCenter(mark.joint, mark.position_mm, f'landmark "{mark.label}" of {name.as_posix()}')
        for mark in read_markups(root / name)
        if mark.position_mm
    )


# --- a table ---


def _from_csv(path: Path) -> list[_Line]:
    """Read all lines of a CSV; raise all faults at once."""
    faults: list[str] = []
    rows = _rows(path, faults)
    lines = [line for number, cells in rows if (line := _read_line(path, number, cells, faults))]
    faults += _repeated(lines)
    if faults:
        raise ValueError(listed(faults, str(path)))
    if not lines:
        raise ValueError(f"{path} has no lines below its header. List one joint per line.")
    return lines


def _rows(path: Path, faults: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Parse a CSV into cells by column, with line numbers; the header tells the delimiter."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not in UTF-8 ({error}). Save it as "CSV UTF-8".') from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip().lower() for name in next(reader, [])]
    _check_header(path, header)
    numbered = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    faults += [
        f"line {number}: it has {len(cells)} cells for {len(header)} columns. Write decimals with a point."
        for number, cells in numbered
        if len(cells) > len(header)
    ]
    blank = dict.fromkeys(header, "")
    return [
        (number, blank | dict(zip(header, cells, strict=False)))
        for number, cells in numbered
        if any(cells) and len(cells) <= len(header)
    ]


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse a table without the columns that are needed."""
    missing = [f'"{name}"' for name in ("joint", *_COORDINATES) if name not in header]
    missing += ['"scan" or "patient"'] * (not {"scan", "patient"} & set(header))
    if missing:
        raise ValueError(
            f"{path}: the first line must name the columns; it lacks {', '.join(missing)} and names "
            f"{', '.join(header) or 'none'}. Write for example scan,joint,x,y,z."
        )


def _read_line(path: Path, number: int, cells: dict[str, str], faults: list[str]) -> _Line | None:
    """Turn the cells of a line into a joint, or add what is wrong with them to the faults."""
    found = _cell_faults(cells)
    meaning = read_label(cells["joint"])
    faults += [f"line {number}: {fault}" for fault in found]
    if found or meaning is None:
        return None
    position = (float(cells["x"]), float(cells["y"]), float(cells["z"]))
    origin = f"line {number} of {path.name}"
    center = JointCenter(meaning[0], in_ras(position, read_system(_system_of(cells))), origin)
    scan, patient = cells.get("scan", ""), cells.get("patient", "")
    return _Line(f"{origin} ({scan or patient})", (center,), scan, patient)


def _cell_faults(cells: dict[str, str]) -> list[str]:
    """Find all that is wrong with a line."""
    faults = []
    if not cells.get("scan") and not cells.get("patient"):
        faults.append("it names neither a scan nor a patient. Fill in one of them.")
    if read_label(cells["joint"]) is None:
        faults.append(f'the joint must be "left" or "right", got "{cells["joint"]}".')
    wrong = [name for name in _COORDINATES if as_finite(cells[name]) is None]
    faults += [f'{name} must be a finite number of mm, with a decimal point, got "{cells[name]}".' for name in wrong]
    try:
        read_system(_system_of(cells))
    except ValueError as fault:
        faults.append(str(fault))
    return faults


def _system_of(cells: dict[str, str]) -> str:
    """Name the coordinate system of a line."""
    return cells.get("coordinate_system") or "RAS"


def _repeated(lines: list[_Line]) -> list[str]:
    """Find the lines that mark a joint again."""
    first: dict[tuple[str, str, str], _Line] = {}
    faults = []
    for line in lines:
        center = line.centers[0]
        before = first.setdefault((line.scan, line.patient, center.joint), line)
        if before is not line:
            faults.append(f"{line.name}: {before.name} already has its {center.joint} joint. Keep one of them.")
    return faults
