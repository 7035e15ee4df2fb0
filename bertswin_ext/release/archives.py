"""Archives whose bytes depend on names and contents alone."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path, PurePosixPath

from bertswin_ext.files import written_whole

__all__ = ["rewrite_sdist", "rewrite_wheel", "write_zip"]

# the earliest time that a zip can hold
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o644
_UNIX = 3


def write_zip(folder: str | Path, path: str | Path) -> None:
    """Write a folder as a zip whose one top directory is the folder.

    Order, times and permissions are fixed and nothing is compressed, so the bytes depend neither on the clock, the
    file system and the umask nor on the version of zlib. Weights hardly get smaller by compression.

    Args:
        folder: what to write.
        path: the archive.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     (Path(parent) / "toy").mkdir()
        ...     _ = (Path(parent) / "toy" / "LICENSE").write_text("Apache-2.0")
        ...     write_zip(Path(parent) / "toy", Path(parent) / "toy.zip")
        ...     zipfile.ZipFile(Path(parent) / "toy.zip").namelist()
        ['toy/LICENSE']
    """
    folder = Path(folder)
    names = sorted(file.relative_to(folder.parent).as_posix() for file in folder.rglob("*") if file.is_file())
    _write_members(path, ((name, (folder.parent / name).read_bytes()) for name in names))


def rewrite_wheel(path: str | Path) -> None:
    """Give a wheel the order, times and permissions of `write_zip`; what describes it stays at its end.

    Args:
        path: the wheel; it is replaced.
    """
    with zipfile.ZipFile(path) as wheel:
        names = sorted((name for name in wheel.namelist() if not name.endswith("/")), key=_wheel_order)
        members = [(name, wheel.read(name)) for name in names]
    _write_members(path, members)


def rewrite_sdist(path: str | Path, time: int) -> None:
    """Give a source distribution a fixed order, owner and permissions, and one time.

    Args:
        path: the ``.tar.gz``; it is replaced.
        time: time of every file, seconds since 1970.
    """
    with tarfile.open(path) as source:
        members = {member.name: _content(source, member) for member in source.getmembers() if member.isfile()}
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(members):
            archive.addfile(_described(name, members[name], time), BytesIO(members[name]))
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(packed.getvalue(), compresslevel=9, mtime=time))


def _write_members(path: str | Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a zip of regular files."""
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in members:
            member = zipfile.ZipInfo(name, date_time=_NO_TIME)
            member.create_system = _UNIX
            member.external_attr = (stat.S_IFREG | _FILE_MODE) << 16
            archive.writestr(member, content, compress_type=zipfile.ZIP_STORED)


def _wheel_order(name: str) -> tuple[bool, bool, str]:
    """The package first, its description after it, the list of files last."""
    place = PurePosixPath(name)
    return place.parts[0].endswith(".dist-info"), place.name == "RECORD", name


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Bytes of a file in an archive."""
    stream = archive.extractfile(member)
    return b"" if stream is None else stream.read()


def _described(name: str, content: bytes, time: int) -> tarfile.TarInfo:
    """A file of no one in particular."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), time, _FILE_MODE
    return member
