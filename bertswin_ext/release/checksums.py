"""Checksums of files, and the list of them that lies beside a release."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from bertswin_ext.files import written_whole

__all__ = ["CHECKSUM_FILE", "checked_sha256", "read_checksums", "sha256_of", "write_checksums"]

CHECKSUM_FILE = "SHA256SUMS"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S.*)")


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_sha256(value: str) -> str:
    """A checksum as a user gives it, in small letters.

    Raises:
        ValueError: it is none.

    Example:
        >>> checked_sha256("AB" * 32)[:6]
        'ababab'
    """
    value = value.strip().lower()
    if not _SHA256.fullmatch(value):
        raise ValueError(
            f"`sha256` must be 64 hexadecimal digits, got {value!r}. Take them from the page of the release."
        )
    return value


def write_checksums(folder: str | Path, names: Iterable[str]) -> Path:
    """Write the list that ``sha256sum --check`` reads.

    Args:
        folder: where the files lie; the list is written there.
        names: the files.
    """
    path = Path(folder) / CHECKSUM_FILE
    lines = [f"{sha256_of(Path(folder) / name)}  {name}\n" for name in sorted(names)]
    with written_whole(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return path


def read_checksums(text: str) -> dict[str, str]:
    """Checksums by file name; lines of another kind are passed over.

    Args:
        text: content of a list as ``sha256sum`` writes it.

    Example:
        >>> read_checksums("0" * 64 + "  a.zip")["a.zip"][:4]
        '0000'
    """
    matches = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {match[2]: match[1].lower() for match in matches if match}
