"""Downloading a bundle: nothing is in its place before everything is checked."""

from __future__ import annotations

import logging
import tempfile
import zipfile
import zlib
from pathlib import Path

from monai.apps.utils import extractall

from bertswin_ext.release.archive_check import check_archive
from bertswin_ext.release.fetch import expected_sha256, fetch, quiet_monai
from bertswin_ext.release.weights_check import check_weights

__all__ = ["download_bundle"]

logger = logging.getLogger(__name__)


def download_bundle(
    source: str, bundle_dir: str | Path = ".", sha256: str | None = None, overwrite: bool = False
) -> Path:
    """Fetch the archive of a bundle, check it and its weights, and put the bundle's folder in its place.

    MONAI's own ``download`` checks no checksum. Weights are read without running code from them. The bundle's
    configurations and its marker module are programs all the same: run a bundle only from a source that you trust.

    Args:
        source: URL or path of the archive.
        bundle_dir: folder to put the bundle in.
        sha256: checksum of the archive; without it, that in the ``SHA256SUMS`` beside it; ``"none"`` for no check.
        overwrite: replace a bundle of the same name.

    Returns:
        The bundle's folder.

    Raises:
        ValueError: the archive cannot be had, has a wrong checksum or none, is torn or unsafe, is no bundle, holds
            weights that cannot be read safely, or the folder is taken. Nothing is left behind then.
    """
    bundle_dir = Path(bundle_dir)
    with quiet_monai(), tempfile.TemporaryDirectory(prefix=".download_", dir=_existing(bundle_dir)) as temporary:
        work = Path(temporary)
        # MONAI takes the name for the kind of archive
        archive = fetch(source, work / "archive.zip", expected_sha256(source, sha256, work))
        name = check_archive(archive, source)
        target = bundle_dir / name
        _check_free(target, overwrite)
        unpacked = _unpack(archive, work / "unpacked", source) / name
        _check_bundle(unpacked, source)
        weights = check_weights(unpacked)
        _put(unpacked, target, work / "replaced")
    logger.info("%s: %d files of weights checked, written to %s", source, len(weights), target)
    return target


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"`bundle_dir` {folder} must be a folder, found the file {place}.")
    return place


def _check_free(target: Path, overwrite: bool) -> None:
    """Raise if a bundle would be lost."""
    if not overwrite and (target.is_symlink() or target.exists()):
        raise ValueError(
            f"{target} exists. Give another `--bundle_dir`, or replace it with `--overwrite true`: everything in it, "
            "weights that were trained there included, is deleted then."
        )


def _unpack(archive: Path, folder: Path, source: str) -> Path:
    """Unpack a checked archive; the checksum of every member is compared on the way."""
    try:
        extractall(archive, folder, has_base=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{source} is truncated or damaged: {error}. Fetch it again.") from error
    return folder


def _check_bundle(folder: Path, source: str) -> None:
    """Raise if a folder is none that MONAI could run."""
    if not (folder / "configs" / "metadata.json").is_file():
        raise ValueError(f"{source} must hold a bundle, found no {folder.name}/configs/metadata.json in it.")


def _put(folder: Path, target: Path, replaced: Path) -> None:
    """Move a folder to its place; what was there comes back if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        target.rename(replaced)
    try:
        folder.rename(target)
    except OSError:
        if replaced.is_symlink() or replaced.exists():
            replaced.rename(target)
        raise
