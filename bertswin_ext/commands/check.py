"""Look at every volume of a data set."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["check"]


def check(
    dataset: str,
    fold: int = 0,
    spacing_mm: float | Sequence[float] | None = None,
    img_size: int | Sequence[int] | None = None,
) -> None:
    """Open every volume of a data set before a long run does, and write a table of what was found.

    Run it as: python -m bertswin_ext check --dataset datalist.json

    Args:
        dataset: a .json datalist, or a folder of volumes.
        fold: fold to validate on.
        spacing_mm: edge of a voxel in mm that the run resamples to, 0.4 or "(0.4, 0.4, 0.5)"; with --img_size.
        img_size: voxels per axis of the run's crop, 96 or "(96, 96, 64)": smaller volumes are faults.
    """
    from bertswin_ext.data.datalist_check import check_datalist

    if isinstance(dataset, bool):
        raise TypeError("`--dataset` must be a datalist or a folder, got none. Use --dataset datalist.json, say.")
    check_datalist(str(dataset), fold=fold, spacing_mm=spacing_mm, img_size=img_size)
