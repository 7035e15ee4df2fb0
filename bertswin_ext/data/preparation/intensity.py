"""Grey values: are they Hounsfield units, what maps them onto those, and int16 for the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bertswin_ext.voxels import AIR_HU, VOXELS

__all__ = ["DENSE_BONE_HU", "SOFT_TISSUE_HU", "IntensityMap", "count_outside_window", "fit_intensity", "to_int16"]
__all__ += ["why_not_hu"]

Array = npt.NDArray[Any]
Values = npt.NDArray[np.float32]

METHODS = ("hu", "percentile")

SOFT_TISSUE_HU = 40.0
"""Where muscle lies, the most frequent tissue of a head."""

DENSE_BONE_HU = 1500.0
"""Where the 99th percentile of what is not air is put."""

_BONE_PERCENTILE = 99.0
_RANGE_PERCENTILES = (1.0, 99.5)
_AIR_SHARE = 0.25  # of the way from the lower to the upper end of the range; -375 HU when they are at -1000 and 1500
_VALLEY_EDGES_HU = (-700.0, -350.0, 0.0, 350.0, 700.0)
_VALLEY_DEPTH = 0.45  # found on CT: at most 0.18 with air, at least 0.7 without

_AIR_BELOW_HU = -500.0
_BONE_ABOVE_HU = 300.0
_NO_TISSUE_ABOVE_HU = -200.0
_SOFT_TISSUE_PEAK_HU = (-250.0, 350.0)  # cone-beam values may be this far off and still be meant as HU
_PEAK_WIDTH_HU = 50.0
_PEAK_SHARE = 0.05
_STORED = np.iinfo(np.int16)
_INTERCEPT = 1024.0
_LOOKED_AT = 2_000_000  # voxels that statistics are made of


@dataclass(frozen=True)
class IntensityMap:
    """A linear map from a scan's grey values to (nearly) Hounsfield units.

    Attributes:
        scale: HU per grey value.
        offset: HU of grey value 0.
        method: how it was found: ``"hu"``, ``"percentile"``, or ``"percentile without air"``, see `fit_intensity`.

    Example:
        >>> IntensityMap(2.0, -1000.0, "percentile").apply(np.array([0, 520])).tolist()
        [-1000.0, 40.0]
    """

    scale: float
    offset: float
    method: str

    def apply(self, array: Array) -> Values:
        """Map grey values; the result is a new array."""
        values = array.astype(np.float32)
        if (self.scale, self.offset) != (1.0, 0.0):
            values *= np.float32(self.scale)
            values += np.float32(self.offset)
        return values

    def to_item(self) -> dict[str, Any]:
        """The entry of a datalist or a report."""
        return asdict(self)


def fit_intensity(array: Array, method: str = "hu", fill: float | None = None) -> IntensityMap:
    """Find the map from a scan's grey values to HU.

    Cone-beam scanners give grey values that grow linearly with the attenuation, but the scale and the offset are those
    of the model and the exposure. ``"percentile"`` takes two landmarks from the scan. The lower one is air: the median
    of the values in the lowest quarter of the range, which unlike a low percentile is neither moved by noise nor by the
    amount of air. The upper one is the 99th percentile of what is not air, because a percentile of all voxels would
    depend on how much air there is around the head; in CT of heads and joints it lies at 1400 to 1600 HU, in the
    cortical bone. Metal does not move it unless it makes up more than a hundredth of the tissue.

    A crop inside the head may hold less than a hundredth of air. The lowest quarter is then soft tissue, which would
    become air. It shows in the histogram, which falls from there instead of having a valley between air and fat; the
    lower landmark is then the soft tissue itself, at its peak.

    Args:
        array: grey values, any shape; several million voxels are subsampled.
        method: ``"hu"`` for values that are HU already (the identity), or ``"percentile"``.
        fill: constant outside the field of view, which is no tissue; voxels of this value are left out.

    Raises:
        ValueError: the method is another, a voxel is NaN or infinite, or the values have no contrast.

    Source: landmarks of our own; see `DENSE_BONE_HU`, `SOFT_TISSUE_HU` and `~bertswin_ext.voxels.AIR_HU`.

    Example:
        >>> grey = np.repeat([0.0, 0.416, 1.0], [50, 40, 10])
        >>> fit_intensity(grey, "percentile")
        IntensityMap(scale=2500.0, offset=-1000.0, method='percentile')
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    if method == "hu":
        return IntensityMap(1.0, 0.0, "hu")
    values = _sample(array)
    if not np.isfinite(values).all():
        raise ValueError("The grey values must be finite, got NaN or infinite ones. Replace them by air.")
    values = values if fill is None else values[values != fill]
    low, high = np.percentile(values, _RANGE_PERCENTILES) if values.size else (0.0, 0.0)
    if not high > low:
        raise ValueError(
            f"The grey values have no contrast: their 1st and 99.5th percentiles are both {low:g}. Remove the scan."
        )
    is_air = values < low + _AIR_SHARE * (high - low)
    with_air = _through(float(np.median(values[is_air])), AIR_HU, values[~is_air], "percentile")
    if _is_without_air(with_air.apply(values)):
        return _through(_peak(values, low, high), SOFT_TISSUE_HU, values, "percentile without air")
    return with_air


def _through(low: float, low_hu: float, tissue: Values, method: str) -> IntensityMap:
    """The line through a landmark and the dense bone of the tissue."""
    scale = (DENSE_BONE_HU - low_hu) / (float(np.percentile(tissue, _BONE_PERCENTILE)) - low)
    return IntensityMap(scale, low_hu - scale * low, method)


def _is_without_air(hu: Values) -> bool:
    """Between air and fat a scan has a valley; if what was taken for air is soft tissue, it has that one's slope."""
    valley, *above = np.histogram(hu, bins=_VALLEY_EDGES_HU)[0]
    return bool(valley > _VALLEY_DEPTH * max(above))


def _peak(values: Array, low: float, high: float) -> float:
    """The most frequent value, to a fiftieth of the range."""
    counts, edges = np.histogram(values, bins=50, range=(low, high))
    most = int(counts.argmax())
    return float(np.median(values[(values >= edges[most]) & (values <= edges[most + 1])]))


def _sample(array: Array) -> Values:
    """Voxels spread evenly over the array."""
    flat = array.ravel(order="K")
    return flat[:: flat.size // _LOOKED_AT | 1].astype(np.float32)  # an odd step does not fall in with the rows


def to_int16(hu: Values) -> tuple[npt.NDArray[np.int16], int]:
    """Round to whole HU for the store, halves to even numbers.

    The store keeps what lies outside the training window; only what int16 cannot hold is clipped.

    Returns:
        The voxels, and how many of them were clipped.

    Raises:
        ValueError: a voxel is NaN.

    Example:
        >>> voxels, clipped = to_int16(np.array([0.5, 1.5, -1e6], dtype=np.float32))
        >>> voxels.tolist(), clipped
        ([0, 2, -32768], 1)
    """
    if np.isnan(hu).any():
        raise ValueError("The voxels must be numbers, got NaN. Replace them by air, -1000 HU.")
    rounded = np.rint(hu)
    clipped = int(np.count_nonzero((rounded < _STORED.min) | (rounded > _STORED.max)))
    return np.clip(rounded, _STORED.min, _STORED.max, out=rounded).astype(np.int16), clipped


def count_outside_window(hu: Array) -> int:
    """How many voxels training will clip, because they lie outside the window of the voxel contract.

    Example:
        >>> count_outside_window(np.array([-1024, -1000, 0, 2500]))
        2
    """
    return int(np.count_nonzero((hu < VOXELS.min_hu) | (hu > VOXELS.max_hu)))


def why_not_hu(array: Array) -> str | None:
    """Say why values can hardly be Hounsfield units.

    Returns:
        The reason in words, or None if they may well be.

    Example:
        >>> why_not_hu(np.array([0, 500, 1300]))
        'values 0..1300 do not look like HU'
    """
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        return "values are NaN or infinite"
    if low < _STORED.min or high > _STORED.max:
        return f"values {low:g}..{high:g} do not fit into int16, as HU do"
    values = _sample(array)
    if high < _NO_TISSUE_ABOVE_HU and np.mean(values < _AIR_BELOW_HU) > 0.999:
        return f"values {low:g}..{high:g} are nothing but air"
    if _is_shifted(values):
        return f"values {low:g}..{high:g} look like HU + {_INTERCEPT:g}: the rescale intercept is missing"
    if low > _AIR_BELOW_HU or high < _BONE_ABOVE_HU:
        return f"values {low:g}..{high:g} do not look like HU"
    return _peak_fault(values)


def _is_shifted(values: Values) -> bool:
    """Most of what is denser than air has 1000 too much: soft tissue lies where only bone should, and above it little.

    Whatever constant there may be below the tissue plays no part.
    """
    dense = np.count_nonzero(values > 0.5 * _INTERCEPT)
    soft = np.count_nonzero(abs(values - _INTERCEPT - SOFT_TISSUE_HU) < 200)
    others = np.count_nonzero(values > values.min())  # without the padding, if there is any
    return bool(soft > 0.6 * dense and soft > 0.05 * others)


def _peak_fault(values: Values) -> str | None:
    """Soft tissue is the highest peak above air; flat histograms have none."""
    dense = values[values > _AIR_BELOW_HU]
    counts, edges = np.histogram(dense, bins=np.arange(_AIR_BELOW_HU, _STORED.max, _PEAK_WIDTH_HU))
    peak = float(edges[counts.argmax()]) + 0.5 * _PEAK_WIDTH_HU
    low, high = _SOFT_TISSUE_PEAK_HU
    if low <= peak <= high or counts.max() < _PEAK_SHARE * dense.size:
        return None
    return f"soft tissue lies at about {peak:g}, in HU it would be at 0 to 100"
