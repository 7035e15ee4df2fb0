"""The list of published bundles that MONAI asks for the latest version."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertswin_ext.release.checksums import sha256_of

__all__ = ["MODEL_INFO_FILE", "bundle_version", "model_info", "published_name"]

MODEL_INFO_FILE = "models/model_info.json"

# MONAI takes what stands before the first `_v` for the name, and sorts versions as text
_VERSION = re.compile(r"\d\.\d\.\d")


def published_name(stage: str) -> str:
    """Name of a published bundle: that of its archive, of the folder in it, and of the model in MONAI Label.

    Args:
        stage: its folder in ``bundles``.

    Raises:
        ValueError: MONAI could not tell the name from the version.

    Example:
        >>> published_name("inference")
        'bertswin_inference'
    """
    if "_v" in stage or "." in stage:
        raise ValueError(
            f"A published bundle must not have `_v` or a dot in its name, got {stage!r}: MONAI takes what follows for "
            "the version. Rename its folder."
        )
    return f"bertswin_{stage}"


def bundle_version(bundle: str | Path) -> str:
    """Version of a bundle by its ``metadata.json``.

    Raises:
        ValueError: the version is not of the form in which MONAI finds the latest one.
    """
    path = Path(bundle) / "configs" / "metadata.json"
    version = str(json.loads(path.read_text(encoding="utf-8")).get("version"))
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"`version` in {path.parent.parent.name}/configs/metadata.json must be three numbers below 10, got "
            f"{version!r}: MONAI compares versions as text."
        )
    return version


def model_info(earlier: Mapping[str, Any], archives: Mapping[str, Path], base_url: str) -> dict[str, Any]:
    """The list with a release added.

    Args:
        earlier: the list so far.
        archives: the release's archives by ``NAME_vX.Y.Z``.
        base_url: where they will lie.

    Returns:
        ``source`` and ``checksum`` (SHA-256) by ``NAME_vX.Y.Z``.
    """
    added = {key: {"checksum": sha256_of(path), "source": f"{base_url}{path.name}"} for key, path in archives.items()}
    return dict(sorted({**earlier, **added}.items()))
