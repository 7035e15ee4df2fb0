"""The scans that a user names on the command line, whatever they lie in, and the joints that are known of them."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from bertswin_ext.data.datalist import JOINTS, Item
from bertswin_ext.data.preparation.landmarks import load_landmarks
from bertswin_ext.data.preparation.markups import as_finite
from bertswin_ext.data.reading.volume_search import volume_stem
from bertswin_ext.data.reading.zipped_series import ZipLimits, is_zip, unzip
from bertswin_ext.data.source_items import source_items
from bertswin_ext.errors import listed

__all__ = ["Scans", "open_scans"]

_NAME_LENGTH = 100
_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows opens devices instead

logger = logging.getLogger(__name__)


class Scans(list[Item]):
    """Items to segment, one for each scan, and the folders that their ZIP files were unpacked to; see `open_scans`.

    The folders are removed by `close`, at the end of a ``with`` block, or when the process ends.

    Attributes:
        folders: what is to be removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folders: list[Path] = []

    def __enter__(self) -> Scans:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was unpacked; the items of ZIP files are gone then."""
        while self.folders:
            shutil.rmtree(self.folders.pop(), ignore_errors=True)


def open_scans(
    source: str | Path | Sequence[str | Path],
    joints: Mapping[str, Sequence[float]] | None = None,
    landmarks: str | Path | None = None,
    work_dir: str | Path | None = None,
    limits: ZipLimits | None = None,
) -> Scans:
    """List the scans to segment.

    Args:
        source: a volume file (NIfTI, NRRD, MetaImage, multi-frame DICOM), a folder of volumes or of DICOM series at any
            depth, a datalist, a ZIP file of one of these, or a list of such places.
        joints: where the joints of a single scan are, ``{"left": [x, y, z], "right": [x, y, z]}`` in the RAS world in
            mm; one of them is enough.
        landmarks: the joints of many scans, as `load_landmarks` reads them. Both come before a datalist's.
        work_dir: where ZIP files are unpacked, each into a folder of its own that is removed at the end; the system's
            folder for temporary files by default.
        limits: how much a ZIP file may unpack to, see `ZipLimits`.

    Returns:
        One item for each scan, in the order of the sources: ``image`` and ``source`` (where it lies, and the place that
        the user named), ``patient``, ``folder`` (where it lies below the source), ``name`` (a name for a file or folder
        that no other scan has), ``archive`` (the ZIP file and what lies in it), ``joints`` where they are known
        (``{"joint": "left" or "right", "center_mm": [x, y, z]}``, left before right), and what else a datalist says.

    Raises:
        ValueError: sources cannot be used, or what is said of the joints is wrong; all faults are listed.

    Example:
        >>> with open_scans(["scans/a.nii.gz", "scans/b.zip"]) as scans:  # doctest: +SKIP
        ...     [scan["name"] for scan in scans]
        ['a', 'b']
    """
    scans = Scans()
    atexit.register(scans.close)
    try:
        items = _all_items(_places(source), scans.folders, work_dir, limits)
        faults: list[str] = []
        found = _with_joints(_one_per_scan(items, faults), joints, landmarks, faults)
        if faults:
            raise ValueError(listed(faults, "what is known of the joints"))
        scans.extend(_named(found))
    except BaseException:
        scans.close()
        raise
    logger.info("scans found: %d", len(scans))
    return scans


# --- what there is ---


def _places(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The places that a user named."""
    places = list(dict.fromkeys([source] if isinstance(source, str | Path) else source or []))
    if not places or not all(isinstance(place, str | Path) and str(place) for place in places):
        raise ValueError(
            f"`source` must name a volume, a DICOM folder, a ZIP file, a datalist or a list of them, got {source!r}."
        )
    return [Path(place).expanduser() for place in places]


def _all_items(
    places: Sequence[Path], folders: list[Path], work_dir: str | Path | None, limits: ZipLimits | None
) -> list[Item]:
    """Items of all places; raise the faults of all of them."""
    items: list[Item] = []
    faults: list[ValueError] = []
    for place in places:
        try:
            items += [{"source": str(place), **item} for item in _items(place, folders, work_dir, limits)]
        except ValueError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise ValueError(listed([str(fault) for fault in faults], "the sources"))
    return items


def _items(place: Path, folders: list[Path], work_dir: str | Path | None, limits: ZipLimits | None) -> list[Item]:
    """Items of one place."""
    if not is_zip(place):
        return source_items(place)
    if work_dir is not None:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
    folders.append(Path(tempfile.mkdtemp(prefix="bertswin-", dir=work_dir)))
    try:
        return [_of_archive(item, place, folders[-1]) for item in source_items(unzip(place, folders[-1], limits))]
    except ValueError as fault:
        # the user knows the ZIP file, not the folder that it was unpacked to
        raise ValueError(str(fault).replace(str(folders[-1].resolve() / place.stem), str(place))) from fault


def _of_archive(item: Item, place: Path, folder: Path) -> Item:
    """An item that says which archive it comes from; what two archives call alike is of two patients."""
    inside = Path(os.path.realpath(item["image"])).relative_to(os.path.realpath(folder))
    # the archive's own name stands above all that is in it
    inside = inside.relative_to(place.stem) if inside.is_relative_to(place.stem) else inside
    names = [place.stem, *inside.parent.parts]
    return {
        **item,
        "archive": f"{place.resolve()}:{inside.as_posix()}" if inside.parts else str(place.resolve()),
        "patient": " ".join([place.stem, *inside.parts[:1]] if len(inside.parts) > 1 else [place.stem]),
        "folder": "/".join(names if inside.parts else []),
    }


# --- joints ---


def _one_per_scan(items: Sequence[Item], faults: list[str]) -> list[Item]:
    """One item for each image, with the joints of all items of it."""
    scans: dict[str, Item] = {}
    for item in items:
        own = _own_joints(item, faults)
        scan = scans.setdefault(os.path.realpath(item["image"]), _without_joint(item))
        if scan["patient"] != item["patient"] and scan["source"] == item["source"]:
            faults.append(f'{item["image"]}: is of patient "{scan["patient"]}" and of "{item["patient"]}"')
        scan["joints"] = [*scan["joints"], *(joint for joint in own if joint not in scan["joints"])]
    for scan in scans.values():
        _check_sides(scan, faults)
    return list(scans.values())


def _without_joint(item: Item) -> Item:
    """What an item says of its scan, without a joint of it."""
    return {key: value for key, value in item.items() if key not in ("joint", "center_mm")} | {"joints": []}


def _own_joints(item: Item, faults: list[str]) -> list[dict[str, Any]]:
    """The joints that an item places: its ``joints``, or itself if it has a ``center_mm``."""
    entries = item.get("joints", [item] if "center_mm" in item else [])
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        faults.append(f'{item["image"]}: "joints" must be a list of {{"joint": ..., "center_mm": [x, y, z]}}')
        return []
    return [
        joint
        for entry in entries
        if (joint := _joint(item["image"], entry.get("joint"), entry.get("center_mm"), faults))
    ]


def _joint(where: str, side: Any, center: Any, faults: list[str]) -> dict[str, Any] | None:
    """One joint, or what is wrong with it."""
    numbers = [] if isinstance(center, str | Mapping) or not hasattr(center, "__iter__") else list(center)
    point = [as_finite(number) for number in numbers]
    if side is not None and side not in JOINTS:
        faults.append(f'{where}: a joint must be "left" or "right", got {side!r}')
    elif len(point) != 3 or None in point:
        faults.append(f"{where}: the centre of a joint must be 3 finite numbers, x, y, z in mm (RAS), got {center!r}")
    else:
        return {"joint": side, "center_mm": point}
    return None


def _check_sides(scan: Item, faults: list[str]) -> None:
    """Sort the joints of a scan and name those that are placed twice."""
    scan["joints"].sort(key=lambda joint: joint["joint"] or "")
    counts = Counter(joint["joint"] for joint in scan["joints"])
    faults += [f"{scan['image']}: the {side} joint has {n} centres" for side, n in counts.items() if side and n > 1]


def _with_joints(
    scans: list[Item],
    joints: Mapping[str, Sequence[float]] | None,
    landmarks: str | Path | None,
    faults: list[str],
) -> list[Item]:
    """Put what the user says of the joints in the place of what the sources say."""
    if joints and landmarks:
        faults.append("give either `joints` or `landmarks`, not both")
    elif joints:
        _give_joints(scans, joints, faults)
    elif landmarks:
        _give_landmarks(scans, landmarks, faults)
    return [scan if scan["joints"] else {k: v for k, v in scan.items() if k != "joints"} for scan in scans]


def _give_joints(scans: list[Item], joints: Mapping[str, Sequence[float]], faults: list[str]) -> None:
    """Give the only scan its joints."""
    if not isinstance(joints, Mapping):
        faults.append(f'`joints` must be {{"left": [x, y, z], "right": [x, y, z]}}, got {joints!r}')
    elif len(scans) != 1:
        faults.append(f"`joints` are those of one scan, but there are {len(scans)}; give a table as `landmarks`")
    else:
        given = [_joint("`joints`", str(side), center, faults) for side, center in joints.items()]
        scans[0]["joints"] = sorted((joint for joint in given if joint), key=lambda joint: str(joint["joint"]))


def _give_landmarks(scans: list[Item], path: str | Path, faults: list[str]) -> None:
    """Give every scan its landmarks."""
    try:
        points = load_landmarks(path, len(scans) == 1)
    except ValueError as fault:
        faults.append(str(fault))
        return
    # a landmark that fits two scans is known only once both have been asked for
    for is_sure in (False, True):
        for scan in scans:
            try:
                centers = points.of(Path(scan["image"]), scan["patient"])
            except ValueError as fault:
                faults += [str(fault)] * is_sure
                continue
            if centers:
                scan["joints"] = [{"joint": center.joint, "center_mm": list(center.center_mm)} for center in centers]
    if unused := points.unused():
        logger.warning("%s", listed([f"{entry} belongs to no scan" for entry in unused], str(path)))


# --- names ---


def _named(scans: Sequence[Item]) -> list[Item]:
    """Give every scan a name of its own: its file's, with its folders or its archive's name where that is needed."""
    short = [_safe(volume_stem(Path(scan["image"]))) for scan in scans]
    full = [_safe(f"{scan['folder'].strip('.')}_{volume_stem(Path(scan['image']))}") for scan in scans]
    count = Counter(name.casefold() for name in short)
    is_plain = [count[name.casefold()] == 1 and "archive" not in scan for name, scan in zip(short, scans, strict=True)]
    wanted = [a if plain else b for a, b, plain in zip(short, full, is_plain, strict=True)]
    taken: set[str] = set()
    return [{**scan, "name": _free(name, taken)} for scan, name in zip(scans, wanted, strict=True)]


def _safe(name: str) -> str:
    """A name that every file system takes."""
    plain = unicodedata.normalize("NFKD", os.fsencode(name).decode("utf-8", "replace"))
    safe = _SAFE.sub("_", "".join(c for c in plain if not unicodedata.combining(c)))[-_NAME_LENGTH:].strip("_.-")
    return f"scan_{safe}".rstrip("_") if not safe or _RESERVED.fullmatch(safe) else safe


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, with a number if need be."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free.casefold())
    return free
