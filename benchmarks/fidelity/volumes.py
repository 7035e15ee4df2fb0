"""The data of `convergence.py`: phantoms and, with a label map, semi-synthetic scans; some of both are held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertswin_ext.data import write_phantoms
from bertswin_ext.data.datalist import load_items
from bertswin_ext.data.phantoms.semi_synthetic import write_semi_synthetic
from bertswin_ext.data.phantoms.variation import Variation
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.prepare import prepare

__all__ = [
    "DEFORM_MM",
    "NUM_PHANTOMS",
    "NUM_SCANS",
    "PHANTOMS_PER_FOLD",
    "SCANS_PER_FOLD",
    "SPACING_MM",
    "make_volumes",
]

NUM_PHANTOMS, NUM_SCANS, SPACING_MM = 60, 8, 0.7
DEFORM_MM = 3.0
PHANTOMS_PER_FOLD, SCANS_PER_FOLD = 5, 4
"""Every so manieth is held out."""

_PHANTOM_SIZE, _PHANTOM_SEED, _SCAN_SEED, _ROI_SIZE = 88, 7, 11, 114


def make_volumes(folder: Path, labels: str | Path | None) -> Path:
    """Make the volumes once, and the store that all runs read.

    Args:
        folder: of everything; what is there is used again.
        labels: label map of a jaw with the values of DentalSegmentator, for the scans; nothing means phantoms alone.

    Returns:
        The datalist of the store; fold 0 is held out.
    """
    store = folder / ("store" if labels else "store_phantoms")
    raw = folder / f"{store.name}.json"
    items = _phantoms(folder) + (_scans(folder, labels) if labels else [])
    raw.write_text(json.dumps({"training": items}, indent=1), encoding="utf-8")
    # what is prepared already is left alone
    prepared = prepare(raw, store, PreparationSettings(spacing_mm=SPACING_MM, roi_size=_ROI_SIZE), num_workers=1)
    if prepared.refused:
        raise RuntimeError(f"Not every volume could be prepared, see {prepared.report}.")
    return prepared.datalist


def _phantoms(folder: Path) -> list[dict[str, Any]]:
    """Phantoms, each a patient."""
    datalist = write_phantoms(folder / "phantoms", NUM_PHANTOMS, _PHANTOM_SIZE, SPACING_MM, seed=_PHANTOM_SEED)
    return _with_folds(datalist, PHANTOMS_PER_FOLD)


def _scans(folder: Path, labels: str | Path) -> list[dict[str, Any]]:
    """Scans of one jaw, each deformed differently and for that taken for another patient."""
    semi = folder / "semi_synthetic"
    datalist = semi / "datalist.json"
    if not datalist.exists():
        variation = Variation(spacing_mm=SPACING_MM, deform_mm=DEFORM_MM)
        write_semi_synthetic(labels, semi, NUM_SCANS, _SCAN_SEED, variation=variation)
    items = _with_folds(datalist, SCANS_PER_FOLD)
    return [{**item, "patient": f"{item['patient']}-{number}"} for number, item in enumerate(items)]


def _with_folds(datalist: Path, every: int) -> list[dict[str, Any]]:
    """Items of a datalist with absolute paths, every so manieth in fold 0."""
    items = [item for section in load_items(datalist).values() for item in section]
    return [{**item, "fold": int(number % every != 0)} for number, item in enumerate(items)]
