"""Volumes to train the joint locator with, on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bertswin_ext.data.phantoms.bodies import make_body
from bertswin_ext.data.phantoms.heads import Head, make_head
from bertswin_ext.data.phantoms.labelled_heads import make_labelled_head, thinned_map
from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti
from bertswin_ext.data.phantoms.phantom import check_not_negative, make_phantom
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.files import written_whole

__all__ = ["write_heads"]

logger = logging.getLogger(__name__)

_VERSION = 1  # raise it whenever the same parameters give other voxels
_LIST = "datalist.json"
_JOINT_BOX_MM = (60.0, 160.0)


def write_heads(
    directory: str | os.PathLike[str],
    heads: int = 48,
    bodies: int = 16,
    joints: int = 32,
    label_maps: Sequence[str | Path] = (),
    heads_per_map: int = 16,
    spacing_mm: float = 2.5,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Write heads, parts of heads and bodies, once; what is there with the same parameters is used again.

    Args:
        directory: receives ``head_0000.nii.gz``, ..., and, last, ``datalist.json``.
        heads: heads of simple solids with drawn joints, see `make_head`.
        bodies: volumes without joints, see `make_body`.
        joints: small scans of one joint, see `make_phantom`.
        label_maps: label maps of real jaws with both joints, with the values of DentalSegmentator.
        heads_per_map: heads made about each of them, see `make_labelled_head`.
        spacing_mm: edge of a voxel.
        seed: of the whole set; a smaller set holds the first volumes of a larger one.

    Returns:
        Items with ``image``, the path, and ``joints``, a list of ``{"joint": side, "center_mm": [x, y, z]}``.

    Raises:
        ValueError: a number is negative, or the directory holds volumes of other parameters.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(write_heads(folder, heads=1, bodies=2, joints=0, spacing_mm=9.0))
        3
    """
    counts = {"heads": heads, "bodies": bodies, "joints": joints, "heads_per_map": heads_per_map}
    for name, value in (counts | {"seed": seed}).items():
        check_not_negative(name, value)
    folder, maps = Path(directory), [str(path) for path in label_maps]
    parameters = {"version": _VERSION, **counts, "label_maps": maps, "spacing_mm": spacing_mm, "seed": seed}
    if not (folder / _LIST).is_file():
        _write(folder, parameters)
    return _read(folder, parameters)


def _write(folder: Path, parameters: dict[str, Any]) -> None:
    """Write all volumes, then the list."""
    folder.mkdir(parents=True, exist_ok=True)
    count = sum(parameters[kind] for kind in ("heads", "bodies", "joints"))
    count += parameters["heads_per_map"] * len(parameters["label_maps"])
    items = []
    for name, head in tqdm(_volumes(parameters), total=count, desc="heads", unit="volume", disable=None):
        write_nifti(folder / f"{name}.nii.gz", whole_hu(head.image), head.affine)
        joints = [{"joint": side, "center_mm": list(place)} for side, place in head.joints.items()]
        items.append({"image": f"{name}.nii.gz", "joints": joints})
    with written_whole(folder / _LIST) as temporary:
        temporary.write_text(json.dumps({"parameters": parameters, "items": items}, indent=2) + "\n", encoding="utf-8")
    logger.info("%d volumes for the joint locator written to %s", len(items), folder)


def _volumes(parameters: dict[str, Any]) -> Iterator[tuple[str, Head]]:
    """Every volume with its name."""
    seed, mm = parameters["seed"], parameters["spacing_mm"]
    for n in range(parameters["heads"]):
        yield f"head_{n:04d}", make_head(_seed_of(seed, n), mm)
    for n in range(parameters["bodies"]):
        # a body's kind is told by whether its seed is even
        yield f"body_{n:04d}", make_body(2 * _seed_of(seed, n) + n % 2, mm)
    for n in range(parameters["joints"]):
        yield f"joint_{n:04d}", _one_joint(_seed_of(seed, n), mm)
    for m, path in enumerate(parameters["label_maps"]):
        label, meta = VolumeReader().get_data([path])
        jaw = thinned_map(np.asarray(label), meta["affine"])
        for n in range(parameters["heads_per_map"]):
            # two heads in three go on where the map ends
            yield f"map_{m:02d}_{n:04d}", make_labelled_head(jaw, 2 * _seed_of(seed, n) + (n % 3 == 2), mm)


def _one_joint(seed: int, spacing_mm: float) -> Head:
    """A box of any size about one joint."""
    extents = np.random.default_rng((seed, 6)).uniform(*_JOINT_BOX_MM, size=3)
    size = [max(16, round(mm / spacing_mm)) for mm in extents.tolist()]
    phantom = make_phantom(seed, size, spacing_mm)
    return Head(phantom.image, phantom.affine, {phantom.side: phantom.joint_center_mm})


def _seed_of(seed: int, n: int) -> int:
    """Seed of the n-th volume of a kind."""
    return int(np.random.SeedSequence((seed, n)).generate_state(1)[0])


def _read(folder: Path, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of a folder that holds what is asked for."""
    content = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    if content.get("parameters") != parameters:
        raise ValueError(
            f"`directory` {folder} holds volumes of other parameters: {content.get('parameters')}. Choose another "
            "directory, or remove this one to write it anew."
        )
    return [item | {"image": str(folder / item["image"])} for item in content["items"]]
