"""Whether a fetched archive may be unpacked."""

from __future__ import annotations

import re
import stat
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bertswin_ext.errors import listed

__all__ = ["check_archive"]

_MAX_MEMBERS = 10_000
_MAX_BYTES = 16 * 2**30
# weights shrink by a tenth, texts to a tenth
_MAX_RATIO = 100
_ENCRYPTED = 1
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NUM_NAMED = 5


def check_archive(path: str | Path, source: str | None = None) -> str:
    """Check a zip without unpacking it: it must hold one folder of plain files, each below that folder.

    Args:
        path: the archive.
        source: where it came from, for messages.

    Returns:
        Name of the folder.

    Raises:
        ValueError: the archive is torn or no zip, or has members that are absolute, climb with ``..``, are links, are
            encrypted, or stand twice; or it has several top directories or none, or would grow beyond all measure.
    """
    source = source or str(path)
    members = _members(path, source)
    faults = [fault for member in members for fault in _member_faults(member)]
    faults += _twice(members) + _size_faults(members, Path(path).stat().st_size)
    faults = faults or _top_faults(members)
    if faults:
        shown = faults[:_NUM_NAMED] + [f"and {len(faults) - _NUM_NAMED} more."] * (len(faults) > _NUM_NAMED)
        raise ValueError(f"{listed(shown, f'the archive {source}')}\nIt is not unpacked.")
    return PurePosixPath(members[0].filename).parts[0]


def _members(path: str | Path, source: str) -> list[zipfile.ZipInfo]:
    """What a zip says it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        # weights are zips, too: an archive that is torn behind one can be read as that one with something before it
        if members and min(member.header_offset for member in members) > 0:
            raise zipfile.BadZipFile("it does not begin with its first file")
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{source} is truncated or no zip: {error}. Fetch it again; if that gives the same, ask its publisher."
        ) from error
    return members


def _member_faults(member: zipfile.ZipInfo) -> list[str]:
    """What is wrong with one member."""
    name, faults = member.filename, []
    if name.startswith("/") or "\\" in name or ":" in name or "\0" in member.orig_filename:
        faults.append(f"{name!r} must be a relative path.")
    if not set(name.rstrip("/").split("/")).isdisjoint({"", ".", ".."}):
        faults.append(f"{name!r} must not climb out of its folder: it has an empty part, `.` or `..`.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        faults.append(f"{name!r} must be a plain file, found a link or a special file.")
    if member.flag_bits & _ENCRYPTED:
        faults.append(f"{name!r} must not be encrypted.")
    return faults


def _twice(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Names that would overwrite one another, on file systems without capital letters, too."""
    counts = Counter(member.filename.rstrip("/").casefold() for member in members)
    folders = {str(above) for name in counts for above in PurePosixPath(name).parents}
    files = {member.filename.casefold() for member in members if not member.is_dir()}
    return [
        *(f"{name!r} must stand once, found {count} times." for name, count in counts.items() if count > 1),
        *(f"{name!r} must be a file or a folder, found both." for name in sorted(files & folders)),
    ]


def _size_faults(members: Sequence[zipfile.ZipInfo], packed: int) -> list[str]:
    """Archives that are small only until they are unpacked."""
    unpacked = sum(member.file_size for member in members)
    faults = []
    if len(members) > _MAX_MEMBERS:
        faults.append(f"There must be at most {_MAX_MEMBERS} files, found {len(members)}.")
    if unpacked > min(_MAX_BYTES, _MAX_RATIO * packed):
        faults.append(f"{packed / 2**20:.1f} MiB must not unpack to {unpacked / 2**20:.0f} MiB, as a zip bomb does.")
    return faults


def _top_faults(members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Anything but one folder that everything is in."""
    loose = sorted(member.filename for member in members if "/" not in member.filename)
    tops = sorted({PurePosixPath(member.filename).parts[0] for member in members})
    if loose or len(tops) != 1:
        found = ", ".join((loose or tops)[:_NUM_NAMED]) or "nothing"
        return [f"There must be one top directory with everything in it, found {found}."]
    if not _FOLDER.fullmatch(tops[0]):
        return [f"The top directory must have a plain name, found {tops[0]!r}."]
    return []
