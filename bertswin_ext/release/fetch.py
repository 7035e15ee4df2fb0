"""Fetching a file and the checksum that belongs to it."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

from monai.apps.utils import download_url

from bertswin_ext.release.checksums import CHECKSUM_FILE, checked_sha256, read_checksums, sha256_of

__all__ = ["expected_sha256", "fetch", "is_url", "quiet_monai"]

logger = logging.getLogger(__name__)

_UNCHECKED = "none"


@contextmanager
def quiet_monai() -> Iterator[None]:
    """Without the messages of MONAI's downloads, which go to stdout and name temporary files."""
    theirs = logging.getLogger("monai.apps")
    before = theirs.level
    theirs.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        theirs.setLevel(before)


def is_url(source: str) -> bool:
    """Whether a source is fetched by HTTP; anything else is a file.

    Example:
        >>> is_url("https://host/a.zip"), is_url("dist/a.zip")
        (True, False)
    """
    return urlsplit(source).scheme in ("http", "https")


def expected_sha256(source: str, sha256: str | None, work: str | Path) -> str | None:
    """The checksum that a file must have.

    Args:
        source: URL or path of the file.
        sha256: what the user gives: a checksum, ``"none"`` for no check, or nothing for the ``SHA256SUMS`` beside it.
        work: folder for temporary files.

    Returns:
        The checksum, or None where the user wants no check.

    Raises:
        ValueError: there is none to be had, or it is no checksum.
    """
    if sha256 is not None and sha256.strip().lower() == _UNCHECKED:
        logger.warning("%s is not checked against a checksum, as `--sha256 none` says", source)
        return None
    if sha256 is not None:
        return checked_sha256(sha256)
    listing, name = _beside(source), _name(source)
    try:
        text = fetch(listing, Path(work) / CHECKSUM_FILE).read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ValueError(f"{listing} cannot be read, so {_NO_CHECKSUM.format(name=name)}") from error
    found = read_checksums(text).get(name)
    if found is None:
        raise ValueError(f"{listing} has no line for {name}, so {_NO_CHECKSUM.format(name=name)}")
    return found


def fetch(source: str, path: str | Path, sha256: str | None = None) -> Path:
    """Bring a file here with MONAI's ``download_url``, or copy it from a path.

    Args:
        source: URL or path of the file.
        path: where to put it.
        sha256: checksum that it must have.

    Returns:
        Where it is.

    Raises:
        ValueError: it cannot be had, or has another checksum.
    """
    path = Path(path)
    try:
        if is_url(source):
            _download(source, path)
        else:
            shutil.copyfile(Path(source).expanduser(), path)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{source} cannot be fetched: {error}. Check the address and the connection.") from error
    if sha256 is not None and sha256_of(path) != sha256:
        raise ValueError(
            f"{source} does not have the checksum {sha256}: it is damaged, or not the file that was published. Fetch "
            "it again, and compare the checksum with that on the page of the release."
        )
    return path


_NO_CHECKSUM = (
    "{name} cannot be checked. Give its checksum as `--sha256 HEX`, from a page that you trust, or `--sha256 none` to "
    "do without."
)


def _download(url: str, path: Path) -> None:
    """MONAI's download, without its warning that there was no checksum: `fetch` compares it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No hash value provided")
        download_url(url, path, progress=False)
    if not path.is_file():
        raise OSError(f"{path.parent} cannot be written to")


def _beside(source: str) -> str:
    """The list of checksums in the folder of a file."""
    return urljoin(source, CHECKSUM_FILE) if is_url(source) else str(Path(source).parent / CHECKSUM_FILE)


def _name(source: str) -> str:
    """Name of a file in that list."""
    return unquote(PurePosixPath(urlsplit(source).path).name) if is_url(source) else Path(source).name
