"""What a store is prepared with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["INTENSITIES", "PreparationSettings"]

INTENSITIES = ("auto", "hu", "percentile")


@dataclass(frozen=True)
class PreparationSettings:
    """What a store is prepared with; another value means other volumes.

    Args:
        spacing_mm: edge of a stored voxel.
        roi_size: edge of the region round a joint, in stored voxels.
        whole_volume: store whole scans and look for no joints.
        intensity: ``auto`` takes values as HU and refuses scans that do not look like it, ``hu`` takes them as HU
            whatever they look like, ``percentile`` scales every scan by itself.
        mandible: values of the label maps that mean mandible.
        skull: values that mean skull.
        fov_radius_mm: radius of the scanner's field of view, round the middle of every scan that comes without one;
            None estimates it from the fill value.

    Raises:
        ValueError: a value is out of range.

    Source: spacing and size of the region from arXiv 2512.21769, section 4.

    Example:
        >>> PreparationSettings(spacing_mm=0.4, roi_size=200).to_json()["roi_size"]
        200
    """

    spacing_mm: float = 0.2
    roi_size: int = 400
    whole_volume: bool = False
    intensity: str = "auto"
    mandible: tuple[int, ...] = (1,)
    skull: tuple[int, ...] = (2,)
    fov_radius_mm: float | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.spacing_mm <= 10:
            raise ValueError(f"`spacing_mm` must lie between 0.01 and 10, got {self.spacing_mm}. The recipe's is 0.2.")
        if self.roi_size < 16:
            raise ValueError(f"`roi_size` must be at least 16 voxels, got {self.roi_size}. The recipe's is 400.")
        if self.intensity not in INTENSITIES:
            raise ValueError(f"`intensity` must be one of {', '.join(INTENSITIES)}, got {self.intensity!r}.")
        if self.fov_radius_mm is not None and self.fov_radius_mm <= 0:
            raise ValueError(f"`fov_radius_mm` must be above 0, got {self.fov_radius_mm}.")
        both = sorted(set(self.mandible) & set(self.skull))
        if both:
            raise ValueError(f"`mandible` and `skull` must not share label values, both have {both}.")

    def to_json(self) -> dict[str, Any]:
        """The settings as they stand in the datalist."""
        return {**asdict(self), "mandible": list(self.mandible), "skull": list(self.skull)}
