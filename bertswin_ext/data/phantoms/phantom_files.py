"""A data set of phantoms on disk: NIfTI volumes, their labels, and a datalist."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti
from bertswin_ext.data.phantoms.phantom import (
    GENERATOR_VERSION,
    Phantom,
    check_not_negative,
    check_tilt,
    checked_sizes,
    checked_spacings,
    make_phantom,
)
from bertswin_ext.data.phantoms.phantom_scanner import FOV_RADIUS_MM
from bertswin_ext.geometry import FieldOfView

__all__ = ["write_phantoms"]

logger = logging.getLogger(__name__)


def write_phantoms(
    directory: str | os.PathLike[str],
    count: int = 8,
    size: int | Sequence[int] = 128,
    spacing_mm: float | Sequence[float] = 0.4,
    oblique_deg: float = 0.0,
    seed: int = 0,
    num_folds: int = 5,
) -> Path:
    """Write a data set of phantoms with its datalist, once.

    ``directory`` receives ``image_0000.nii.gz`` (int16 HU), ``label_0000.nii.gz`` (uint8), ... and ``datalist.json``.
    It appears all at once when everything is written; if it is there already with the same parameters it is reused.
    The bytes depend on the parameters alone, and a smaller ``count`` gives the first phantoms of a larger one.

    Args:
        directory: must not exist, be empty, or hold phantoms of the same parameters.
        count: phantoms to write, at least 1; each is a patient of its own.
        size: as in ``make_phantom``.
        spacing_mm: as in ``make_phantom``.
        oblique_deg: as in ``make_phantom``.
        seed: of the whole set.
        num_folds: cross-validation folds, dealt in turn.

    Returns:
        Path of ``datalist.json``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or the directory holds something else.

    Example:
        >>> datalist = write_phantoms("phantoms", count=2, size=32, spacing_mm=1.2)  # doctest: +SKIP
    """
    check_not_negative("seed", seed)
    _check_positive("count", count)
    _check_positive("num_folds", num_folds)
    check_tilt(oblique_deg)
    parameters = {
        "generator_version": GENERATOR_VERSION,
        "count": int(count),
        "size": list(checked_sizes(size)),
        "spacing_mm": list(checked_spacings(spacing_mm)),
        "oblique_deg": float(oblique_deg),
        "seed": int(seed),
        "num_folds": int(num_folds),
    }
    datalist = Path(directory) / "datalist.json"
    target = Path(directory).resolve()
    if _is_written(target, parameters):
        logger.info("%s holds these %d phantoms already, nothing written", directory, count)
        return datalist

    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.parent / f".{target.name}.{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        _write_all(unfinished, parameters)
        _publish(unfinished, target, parameters)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    logger.info("wrote %d phantoms to %s", count, directory)
    return datalist


def _write_all(directory: Path, parameters: dict[str, Any]) -> None:
    """Images, labels and, last, the datalist."""
    training = []
    for n in tqdm(range(parameters["count"]), desc="phantoms", unit="volume", disable=None):
        phantom = make_phantom(
            seed=int(np.random.SeedSequence((parameters["seed"], n)).generate_state(1)[0]),
            size=parameters["size"],
            spacing_mm=parameters["spacing_mm"],
            oblique_deg=parameters["oblique_deg"],
        )
        entry = _entry(n, phantom, parameters["num_folds"])
        write_nifti(directory / entry["image"], whole_hu(phantom.image), phantom.affine)
        write_nifti(directory / entry["label"], phantom.label, phantom.affine)
        training.append(entry)
    datalist = {
        "description": "Synthetic cone-beam CT of temporomandibular joints, made by bertswin_ext; "
        "labels: 0 background, 1 mandible, 2 skull; positions are RAS in mm",
        "phantom": parameters,
        "training": training,
    }
    (directory / "datalist.json").write_text(json.dumps(datalist, indent=2) + "\n", encoding="utf-8")


def _entry(n: int, phantom: Phantom, num_folds: int) -> dict[str, Any]:
    return {
        "image": f"image_{n:04d}.nii.gz",
        "label": f"label_{n:04d}.nii.gz",
        "patient": f"phantom-{n:04d}",
        "joint": phantom.side,
        "center_mm": [round(c, 3) for c in phantom.joint_center_mm],
        "fov": FieldOfView((0.0, 0.0, 0.0), FOV_RADIUS_MM).to_item(),
        "fold": n % num_folds,
    }


def _publish(unfinished: Path, target: Path, parameters: dict[str, Any]) -> None:
    """Rename into place; if another writer was faster, its phantoms must be the same."""
    try:
        unfinished.rename(target)
    except OSError:
        if not _is_written(target, parameters):
            raise


def _is_written(target: Path, parameters: dict[str, Any]) -> bool:
    """Whether the directory holds exactly these phantoms; raises if it holds anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    remedy = "Choose another directory, or remove this one to write it anew."
    try:
        found = json.loads((target / "datalist.json").read_text(encoding="utf-8"))
        written, entries = dict(found["phantom"]), list(found["training"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"`directory` must be new, empty or hold phantoms, got {target} with other content. {remedy}"
        ) from None
    differing = sorted(key for key in parameters.keys() | written.keys() if parameters.get(key) != written.get(key))
    if differing:
        details = ", ".join(f"{key} is {written.get(key)}, asked for {parameters.get(key)}" for key in differing)
        raise ValueError(f"`directory` {target} holds phantoms of other parameters: {details}. {remedy}")
    missing = [e[key] for e in entries for key in ("image", "label") if not (target / e[key]).is_file()]
    if missing:
        raise ValueError(f"`directory` {target} has lost {len(missing)} files, the first is {missing[0]}. {remedy}")
    return True


def _check_positive(name: str, value: object) -> None:
    check_not_negative(name, value)
    if value == 0:
        raise ValueError(f"`{name}` must be at least 1, got 0. Use 5, say.")
