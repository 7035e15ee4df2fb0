"""The list of a bundle's weights that ``monai.bundle download_large_files`` fetches and checks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bertswin_ext.files import written_whole
from bertswin_ext.release.checksums import sha256_of

__all__ = ["LARGE_FILES", "take_out_weights", "write_large_files"]

# MONAI reads YAML only where PyYAML is installed, which it does not ask for
LARGE_FILES = "large_files.json"


def write_large_files(bundle: str | Path, prefix: str = "", base_url: str = "") -> Path:
    """List the weights in a bundle's ``models`` with their checksums.

    Args:
        bundle: the bundle's folder.
        prefix: of the weights' names beside the archive.
        base_url: where they will lie; without it they are in the bundle, and MONAI only checks them.

    Returns:
        The list.
    """
    bundle = Path(bundle)
    entries = [
        {
            "path": f"models/{name}",
            "url": f"{base_url}{_flat(prefix, name)}" if base_url else "",
            "hash_val": sha256_of(bundle / "models" / name),
            "hash_type": "sha256",
        }
        for name in _weights(bundle)
    ]
    with written_whole(bundle / LARGE_FILES) as temporary:
        temporary.write_text(json.dumps({"large_files": entries}, indent=4) + "\n", encoding="utf-8")
    return bundle / LARGE_FILES


def take_out_weights(bundle: str | Path, prefix: str, output: str | Path) -> list[Path]:
    """Move the weights out of a bundle, under names that say where they belong.

    Args:
        bundle: the bundle's folder.
        prefix: of their new names.
        output: folder to put them in.

    Returns:
        Where they are now.
    """
    bundle, output = Path(bundle), Path(output)
    places = {name: output / _flat(prefix, name) for name in _weights(bundle)}
    for name, place in places.items():
        shutil.move(bundle / "models" / name, place)
    shutil.rmtree(bundle / "models")
    return list(places.values())


def _weights(bundle: Path) -> list[str]:
    """Files below a bundle's ``models``."""
    folder = bundle / "models"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _flat(prefix: str, name: str) -> str:
    """One name for a file in folders: a release has none."""
    return f"{prefix}_{name.replace('/', '_')}"
