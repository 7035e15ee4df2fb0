"""An encoder's features of joints as files for statistics: one .npz for each joint, and a table of all."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertswin_ext.files import written_whole
from bertswin_ext.geometry import Floats

__all__ = ["COLUMNS", "JointFeatures", "feature_row", "write_feature_table", "write_features"]

COLUMNS = (
    "scan",
    "patient",
    "joint",
    "center_x_mm",
    "center_y_mm",
    "center_z_mm",
    "confidence",
    "valid_share",
    "model_sha256",
    "file",
)
"""Columns of ``features.csv`` before the features ``f0000``, ``f0001``, ..."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class JointFeatures:
    """What an encoder made of one joint.

    Attributes:
        scan: name of the scan.
        patient: whose it is.
        joint: ``"left"``, ``"right"``, or nothing where nobody said.
        center_mm: the joint in the RAS world.
        confidence: how sure the locator is; None where the place was given.
        mirrored: a left joint was shown as a right one.
        tokens: one row of features for each token, in C order of their grid.
        valid: which tokens lie in the scan.
        positions_mm: the tokens' middles in the RAS world.
        grid_size: tokens along each axis.
        spacing_mm: edges of the network's voxels.
        model_sha256: hash of the file of weights.

    Shape:
        - tokens: (n, h)
        - valid: (n,)
        - positions_mm: (n, 3)
    """

    scan: str
    patient: str
    joint: str
    center_mm: tuple[float, float, float]
    confidence: float | None
    mirrored: bool
    tokens: Features
    valid: npt.NDArray[np.bool_]
    positions_mm: Floats
    grid_size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    model_sha256: str

    @cached_property
    def mean(self) -> Features:
        """Means over the valid tokens, (h,)."""
        return self.tokens[self.valid].mean(axis=0, dtype=np.float64).astype(np.float32)

    @cached_property
    def std(self) -> Features:
        """Population standard deviations over the valid tokens, (h,)."""
        return self.tokens[self.valid].std(axis=0, dtype=np.float64).astype(np.float32)


def write_features(path: str | Path, features: JointFeatures) -> None:
    """Write the features of a joint; ``numpy.load(path, allow_pickle=False)`` reads them.

    The bytes depend on the features alone.

    Args:
        path: the .npz file; its folder is made.
        features: the joint's, whose attributes are the arrays' names; an unknown confidence is NaN.
    """
    confidence = np.nan if features.confidence is None else features.confidence
    arrays = {
        # the order of an array in memory would be written, too
        "tokens": np.asarray(features.tokens, dtype=np.float32, order="C"),
        "mean": features.mean,
        "std": features.std,
        "valid": features.valid,
        "positions_mm": np.asarray(features.positions_mm, dtype=np.float64, order="C"),
        "grid_size": np.array(features.grid_size, dtype=np.int64),
        "center_mm": np.array(features.center_mm, dtype=np.float64),
        "confidence": np.array(confidence, dtype=np.float64),
        "spacing_mm": np.array(features.spacing_mm, dtype=np.float64),
        "mirrored": np.array(features.mirrored),
        **{name: np.array(getattr(features, name)) for name in ("scan", "patient", "joint", "model_sha256")},
    }
    with written_whole(path) as temporary, temporary.open("wb") as file:
        # a file, as savez would add a suffix to a name
        np.savez(file, **arrays)  # type: ignore[arg-type]


def feature_row(features: JointFeatures, file: str) -> dict[str, str]:
    """A joint's row of ``features.csv``: what it is, and the means over its tokens.

    Args:
        features: the joint's.
        file: its .npz file as it is named in the table.
    """
    x, y, z = (f"{number:.3f}" for number in features.center_mm)
    return {
        "scan": features.scan,
        "patient": features.patient,
        "joint": features.joint,
        "center_x_mm": x,
        "center_y_mm": y,
        "center_z_mm": z,
        "confidence": "" if features.confidence is None else f"{features.confidence:.4f}",
        "valid_share": f"{features.valid.mean():.4f}",
        "model_sha256": features.model_sha256,
        "file": file,
        # nine digits tell every float32
        **{f"f{index:04d}": f"{value:.9g}" for index, value in enumerate(features.mean)},
    }


def write_feature_table(path: str | Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write ``features.csv``.

    Args:
        path: the file; its folder is made.
        rows: what `feature_row` gives, all of one network.
    """
    columns = list(rows[0]) if rows else list(COLUMNS)
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
