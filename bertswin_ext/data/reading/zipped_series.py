"""A ZIP file of scans, unpacked without harm: nothing lands outside its folder, and nothing fills the disk."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bertswin_ext.errors import VolumeError, listed

__all__ = ["ZipLimits", "is_zip", "unzip"]

_CHUNK_BYTES = 1 << 20
_NAMED = 10
_GIB = 1 << 30
_ENCRYPTED = 0x1  # bit of a member's flags
_DRIVE = re.compile(r"^[A-Za-z]:")


@dataclass(frozen=True)
class ZipLimits:
    """How much a ZIP file may unpack to.

    Args:
        max_bytes: size of all members together; 16 GiB hold some twenty scans of 600^3 voxels.
        max_files: number of members.

    Raises:
        ValueError: a limit is not above 0.
    """

    max_bytes: int = 16 * _GIB
    max_files: int = 50_000

    def __post_init__(self) -> None:
        if self.max_bytes < 1 or self.max_files < 1:
            raise ValueError(f"`max_bytes` and `max_files` must be above 0, got {self.max_bytes} and {self.max_files}.")


def is_zip(path: Path) -> bool:
    """Tell whether a path names a ZIP file, by its suffix."""
    return path.suffix.lower() == ".zip" and path.is_file()


def unzip(path: Path, folder: Path, limits: ZipLimits | None = None) -> Path:
    """Unpack a ZIP file into a new folder of its name.

    All members are looked at before the first is written. Hidden files and macOS's ``__MACOSX`` are left out.

    Args:
        path: the ZIP file.
        folder: where to make the new folder; it must not have one of this name.
        limits: how much to unpack at most, see `ZipLimits`.

    Returns:
        The new folder, ``folder / path.stem``.

    Raises:
        VolumeError: the file is damaged, cut off, encrypted or empty, it holds a ZIP file, a link, a name twice or a
            name that leads out of the folder, or it is too large. Nothing is left of it then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with zipfile.ZipFile(folder + "/scan.zip", "w") as archive:
        ...         archive.writestr("series/1.dcm", "...")
        ...     unpacked = unzip(Path(folder) / "scan.zip", Path(folder))
        ...     [file.relative_to(folder).as_posix() for file in unpacked.rglob("*.dcm")]
        ['scan/series/1.dcm']
    """
    target = folder / (path.stem.strip(". ") or "scan")
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not _is_clutter(member)]
            _check(path, members, limits or ZipLimits(), shutil.disk_usage(target).free)
            for member in members:
                _write(archive, member, target)
    except VolumeError:
        shutil.rmtree(target)
        raise
    except Exception as error:  # zipfile, zlib, lzma and the file system share no base class
        shutil.rmtree(target)
        raise VolumeError(f"{path}: cannot be unpacked: {_reason(error)}") from error
    except BaseException:
        shutil.rmtree(target)
        raise
    return target


def _is_clutter(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a folder, or a hidden file that some systems add."""
    parts = _parts(member)
    is_hidden = "__MACOSX" in parts or any(part.startswith(".") for part in parts[-1:])
    return member.is_dir() or (is_hidden and ".." not in parts)


def _parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """Folders and name of a member, whichever slash parts them."""
    return PurePosixPath(member.orig_filename.replace("\\", "/")).parts


def _check(path: Path, members: Sequence[zipfile.ZipInfo], limits: ZipLimits, free_bytes: int) -> None:
    """Raise all that is wrong with what a ZIP file says it holds."""
    if not members:
        raise VolumeError(f"{path}: the ZIP file is empty. Zip the folder of the series, or the volumes.")
    faults = [*_size_faults(members, limits, free_bytes), *_name_faults(members)]
    if faults:
        shown = [*faults[:_NAMED], *([f"and {len(faults) - _NAMED} more"] if len(faults) > _NAMED else [])]
        raise VolumeError(f"{listed(shown, str(path))}\nNothing was unpacked. Zip the scan again, without these.")


def _size_faults(members: Sequence[zipfile.ZipInfo], limits: ZipLimits, free_bytes: int) -> Iterator[str]:
    """Say where a ZIP file is too large."""
    total = sum(member.file_size for member in members)
    if len(members) > limits.max_files:
        yield f"it holds {len(members)} files, at most {limits.max_files} are unpacked (`max_files` of `ZipLimits`)"
    if total > limits.max_bytes:
        yield (
            f"it unpacks to {total / _GIB:.3g} GiB, at most {limits.max_bytes / _GIB:.3g} GiB are unpacked "
            "(`max_bytes` of `ZipLimits`)"
        )
    if total > free_bytes:
        yield f"it unpacks to {total / _GIB:.3g} GiB, and the disk has {free_bytes / _GIB:.3g} GiB left"


def _name_faults(members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    """Say which members are not plain files inside the folder."""
    seen: set[tuple[str, ...]] = set()
    above = {parts[:depth] for parts in map(_folded, members) for depth in range(1, len(parts))}
    for member in members:
        name, parts = member.orig_filename, _folded(member)
        if not parts or parts[0] == "/" or ".." in parts or _DRIVE.match(name) or "\0" in name:
            yield f"{name!r} leads out of the folder"
        elif parts in seen or parts in above:
            yield f"{name!r} is there twice"
        seen.add(parts)
        yield from _kind_faults(member)


def _folded(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """Folders and name of a member, the same for names that differ in case only."""
    return tuple(part.casefold() for part in _parts(member))


def _kind_faults(member: zipfile.ZipInfo) -> Iterator[str]:
    """Say why a member is not a file to unpack."""
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        yield f"{name!r} is a link or a device"
    if member.flag_bits & _ENCRYPTED:
        yield f"{name!r} is encrypted"
    if name.lower().endswith(".zip"):
        yield f"{name!r} is a ZIP file itself: unpack it first"


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Unpack one member, which cannot be longer than it says."""
    target = folder.joinpath(*_parts(member))
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, target.open("xb") as file:
        shutil.copyfileobj(packed, file, _CHUNK_BYTES)


def _reason(error: Exception) -> str:
    """What a library's exception means."""
    if isinstance(error, NotImplementedError):
        return f"its compression is not known ({error}). Zip it again, with the usual compression (deflate)."
    if isinstance(error, OSError):
        return f"{error}."
    return f"it is no ZIP file, damaged or cut off ({str(error) or type(error).__name__}). Copy it again."
