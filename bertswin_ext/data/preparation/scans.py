"""The scans that are to be prepared: where they lie, whose they are, and what is known of them beforehand."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from bertswin_ext.data.datalist import Item, load_items
from bertswin_ext.data.preparation.landmarks import JointCenter
from bertswin_ext.data.preparation.store import is_store
from bertswin_ext.data.reading.dicom_series import is_dicom_file
from bertswin_ext.data.reading.volume_reader import ITK_SUFFIXES, volume_suffix
from bertswin_ext.data.reading.volume_search import find_volumes, volume_stem

__all__ = ["Scan", "content_sha256", "find_scans", "source_files"]

_NAME_LENGTH = 100
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_FIELD = re.compile(r"^\s*(?:data ?file\s*:|ElementDataFile\s*=)", re.IGNORECASE | re.MULTILINE)
_NUMBERED = re.compile(r"%\d*d.*")
_HEADER_BYTES = 1 << 16
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Scan:
    """One scan before preparation.

    Attributes:
        path: a volume file, or the folder of a DICOM series.
        scan: its name in messages: the path below the input.
        patient: whose it is.
        section: list of the datalist that it belongs to, ``training`` or ``validation``.
        label: label map of the whole scan, if there is one.
        joints: where the joints are, as far as the input says so.
        sides: joints that the input names without saying where they are.
        extra: entries of the datalist that are handed on: ``fold`` and ``fov``.
        fault: why it cannot be used, whatever its voxels; empty if nothing is known against it.
    """

    path: Path
    scan: str
    patient: str
    section: str = "training"
    label: Path | None = None
    joints: tuple[JointCenter, ...] = ()
    sides: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def name(self) -> str:
        """A file name of its own: readable, without odd characters, and the same wherever the input lies."""
        place = Path(self.scan)
        readable = _SAFE.sub("_", str(place.with_name(volume_stem(place))))[-_NAME_LENGTH:].strip("_.-")
        # os.fsencode: a file name need not be text
        return f"{readable or 'scan'}-{hashlib.sha256(os.fsencode(self.scan)).hexdigest()[:10]}"


def find_scans(source: str | Path) -> list[Scan]:
    """List the scans of a folder, of a datalist, or a single one.

    Args:
        source: a folder, searched like `find_volumes` does, without what lies in a store; a ``.json`` datalist or a
            folder that holds one, whose ``label``, ``joint`` with ``center_mm``, ``fov`` and ``fold`` are used; or one
            volume file.

    Returns:
        The scans in the order of their names; the joints of one scan are one entry.

    Raises:
        ValueError: there is nothing there, or with all faults of the datalist.
    """
    path = Path(os.path.abspath(Path(source).expanduser()))
    if not path.exists():
        raise ValueError(f"`input` {path} does not exist. Give a folder of scans, a datalist.json or a volume file.")
    if path.is_dir() and (path / "datalist.json").is_file():
        path = path / "datalist.json"
    if path.is_dir():
        found = _from_folder(path)
    elif path.suffix.lower() == ".json":
        found = _from_datalist(path)
    else:
        found = [Scan(path, path.name, volume_stem(path))]
    return sorted(found, key=lambda scan: scan.scan)


def source_files(path: Path) -> list[Path]:
    """The files that a volume consists of: the slices of a series, a header and its data files."""
    if path.is_dir():
        return sorted(p for p in path.iterdir() if is_dicom_file(p))
    return [path, *(_data_files(path) if volume_suffix(path) in ITK_SUFFIXES else ())]


def content_sha256(files: Sequence[Path]) -> str:
    """Hash of the names and contents of some files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(os.fsencode(path.name) + f"\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _data_files(header: Path) -> Iterator[Path]:
    """Files beside a NRRD or MetaImage header that it names: one, a list of them, or a pattern with their numbers."""
    with header.open("rb") as file:
        text = re.split(rb"\r?\n\r?\n", file.read(_HEADER_BYTES))[0].decode("latin-1")
    if field_found := _FIELD.search(text):
        for name in map(str.strip, text[field_found.end() :].splitlines()):
            names = [header.parent / name] if name else []
            if _NUMBERED.search(name):
                names = sorted(header.parent.glob(_NUMBERED.sub("*", name)))
            yield from (path for path in names if path.is_file())


def _below(path: Path, folder: Path) -> str:
    """A path as the input knows it."""
    return folder.name if path == folder else Path(os.path.relpath(path, folder)).as_posix()


# --- a folder ---


def _from_folder(folder: Path) -> list[Scan]:
    """The volumes of a folder, without those that an earlier preparation has stored there."""
    is_one = cache(is_store)
    found = [
        Scan(path, _below(path, folder), patient)
        for path, patient in find_volumes(folder)
        if not any(is_one(parent) for parent in path.parents if parent.is_relative_to(folder))
    ]
    if not found:
        raise ValueError(f"{folder} holds no scans, only volumes that `prepare` has stored. Give the folder of scans.")
    return found


# --- a datalist ---


def _from_datalist(path: Path) -> list[Scan]:
    """One scan for each image of a datalist, with all its joints."""
    scans: dict[str, Scan] = {}
    for section, items in load_items(path).items():
        for item in items:
            own, image = _of_item(item, section, path.parent), item["image"]
            scans[image] = _joined(scans[image], own, path) if image in scans else own
    return list(scans.values())


def _of_item(item: Item, section: str, folder: Path) -> Scan:
    """The scan of one item."""
    joints: tuple[JointCenter, ...] = ()
    if "joint" in item and "center_mm" in item:
        joints = (JointCenter(item["joint"], tuple(item["center_mm"]), "datalist"),)
    return Scan(
        path=Path(item["image"]),
        scan=_below(Path(item["image"]), folder),
        patient=item["patient"],
        section=section,
        label=Path(item["label"]) if "label" in item else None,
        joints=joints,
        sides=(item["joint"],) if "joint" in item and not joints else (),
        extra={key: item[key] for key in ("fold", "fov") if key in item},
    )


def _joined(first: Scan, other: Scan, path: Path) -> Scan:
    """Two items of one scan, one joint each."""
    same = (first.patient, first.section, first.label, first.extra)
    if same != (other.patient, other.section, other.label, other.extra):
        raise ValueError(
            f"{path}: the items of {first.scan} must agree in everything but the joint. Correct patient, label, fold, "
            "fov and list of both."
        )
    return replace(first, joints=first.joints + other.joints, sides=first.sides + other.sides)
