"""A release: archives of the bundles, the package, and the lists that describe them."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from bertswin_ext.files import written_whole
from bertswin_ext.release.archives import write_zip
from bertswin_ext.release.checksums import write_checksums
from bertswin_ext.release.commit import Commit
from bertswin_ext.release.distributions import build_distributions
from bertswin_ext.release.large_files import take_out_weights, write_large_files
from bertswin_ext.release.model_info import MODEL_INFO_FILE, bundle_version, model_info, published_name
from bertswin_ext.release.published_bundle import stage_bundle
from bertswin_ext.release.weights_check import check_weights

__all__ = ["BUNDLES", "Weights", "build_release"]

logger = logging.getLogger(__name__)

BUNDLES = ("pretrain", "tmj_segmentation", "inference")
Weights = Literal["inside", "beside"]


def build_release(
    commit: Commit,
    output: str | Path,
    bundles: Sequence[str] = BUNDLES,
    weights: Weights = "inside",
    base_url: str = "",
) -> list[Path]:
    """Build a release of a commit: the same commit gives the same bytes, whenever and wherever it is built.

    Args:
        commit: what is released; only committed files come in.
        output: folder to write, new or empty.
        bundles: their folders in ``bundles``.
        weights: ``"inside"`` the archives, or ``"beside"`` them, to be fetched by MONAI's ``download_large_files``.
        base_url: where the files will lie; ``"beside"`` needs it.

    Returns:
        The files, ``SHA256SUMS`` and ``models/model_info.json`` last.

    Raises:
        ValueError: the folder is taken, an argument is unknown, or a bundle is not fit to be published.
    """
    output = Path(output)
    _check(output, bundles, weights, base_url)
    base_url = f"{base_url.rstrip('/')}/" if base_url else ""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".release_", dir=output.parent) as temporary:
        source, release = Path(temporary) / "source", Path(temporary) / "release"
        release.mkdir()
        commit.export(source)
        archives: dict[str, Path] = {}
        for stage in bundles:
            archives |= _build_bundle(source / "bundles" / stage, Path(temporary), release, weights, base_url)
        build_distributions(source, release, commit.time)
        files = _describe(commit, release, archives, base_url)
        if output.exists():
            output.rmdir()
        release.rename(output)
    logger.info("commit %s released to %s", commit.name[:12], output)
    return [output / name for name in files]


def _check(output: Path, bundles: Sequence[str], weights: str, base_url: str) -> None:
    """Raise before minutes of work are in vain."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"`output` {output} must be a new or empty folder. Remove it, or give another one.")
    if not bundles or len(set(bundles)) < len(bundles):
        raise ValueError(f"`bundles` must name each bundle once, got {', '.join(bundles) or 'none'}.")
    if weights not in get_args(Weights):
        raise ValueError(f"`weights` must be 'inside' or 'beside', got {weights!r}.")
    if weights == "beside" and not base_url:
        raise ValueError("`base_url` must say where weights beside the archives will lie, got none.")


def _build_bundle(bundle: Path, work: Path, release: Path, weights: Weights, base_url: str) -> dict[str, Path]:
    """The archive of one bundle by its name and version, its weights beside it where they shall be."""
    if not bundle.is_dir():
        raise ValueError(f"`bundles` must be folders in bundles, found no {bundle.name} in the commit.")
    staged = stage_bundle(bundle, work / "staged" / published_name(bundle.name))
    key = f"{staged.name}_v{bundle_version(staged)}"
    check_weights(staged)
    write_large_files(staged, key, base_url if weights == "beside" else "")
    if weights == "beside":
        take_out_weights(staged, key, release)
    archive = release / f"{key}.zip"
    write_zip(staged, archive)
    return {key: archive}


def _describe(commit: Commit, release: Path, archives: dict[str, Path], base_url: str) -> list[str]:
    """Write the lists; names of all files of the release."""
    names = sorted(path.name for path in release.iterdir())
    checksums = write_checksums(release, names)
    earlier = json.loads(commit.text(MODEL_INFO_FILE) or "{}")
    with written_whole(release / MODEL_INFO_FILE) as temporary:
        temporary.write_text(json.dumps(model_info(earlier, archives, base_url), indent=4) + "\n", encoding="utf-8")
    return [*names, checksums.name, MODEL_INFO_FILE]
