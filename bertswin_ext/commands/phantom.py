"""Write synthetic scans."""

from __future__ import annotations

from collections.abc import Sequence

from bertswin_ext.commands.hints import how_to_train

__all__ = ["phantom"]


def phantom(
    output: str,
    count: int = 8,
    size: int | Sequence[int] = 128,
    spacing_mm: float | Sequence[float] = 0.4,
    oblique_deg: float = 0.0,
    seed: int = 0,
    num_folds: int = 5,
) -> str:
    """Write synthetic cone-beam CT of temporomandibular joints, with labels and a datalist to train on.

    Run it as: python -m bertswin_ext phantom --output phantoms --count 20

    The directory appears when everything is written. If it holds the same phantoms already it is left alone.

    Args:
        output: directory for images, labels and datalist.json; new, empty, or of an earlier run.
        count: number of phantoms, each a patient of its own.
        size: voxels per axis, 128 or "(128, 128, 96)" for left-right, back-front, down-up; at least 16.
        spacing_mm: edge of a voxel in mm, 0.4 or "(0.4, 0.4, 0.5)".
        oblique_deg: largest tilt of the voxel grid in degrees, 0 to 30.
        seed: another seed gives other joints.
        num_folds: cross-validation folds.

    Returns:
        The path of the datalist and the command that trains on it.
    """
    from bertswin_ext.data.phantoms.phantom_files import write_phantoms

    if isinstance(output, bool):
        raise TypeError("`--output` must be a directory, got none. Use --output phantoms, say.")
    datalist = write_phantoms(
        str(output), count, size, spacing_mm, oblique_deg=oblique_deg, seed=seed, num_folds=num_folds
    )
    return f"{datalist}\n{how_to_train(datalist)}"
