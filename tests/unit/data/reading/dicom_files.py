"""Write small DICOM CT series by hand, with any geometry."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

_LONG = ("OB", "OW")


def element(tag: str, vr: str, value: Any) -> bytes:
    """Encode one data element in explicit VR little endian."""
    group, number = (int(part, 16) for part in tag.split("|"))
    if vr == "US":
        data = struct.pack("<H", value)
    elif vr == "SS":
        data = struct.pack("<h", value)
    elif vr == "UL":
        data = struct.pack("<I", value)
    else:
        data = value if isinstance(value, bytes) else str(value).encode()
    if len(data) % 2:
        data += b"\0" if vr in ("UI", *_LONG) else b" "
    length = b"\0\0" + struct.pack("<I", len(data)) if vr in _LONG else struct.pack("<H", len(data))
    return struct.pack("<HH", group, number) + vr.encode() + length + data


def ds(*numbers: float) -> str:
    """Write decimal numbers as DICOM does (at most 16 characters each)."""
    return "\\".join(f"{number:.10f}"[:16] for number in numbers)


def write_slice(
    path: Path,
    stored: np.ndarray,
    position: Sequence[float] | None,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (1.0, 1.0),
    number: int | None = 1,
    series: str = "1.2.3.4",
    slope: float = 1.0,
    intercept: float = 0.0,
    padding: int | None = None,
) -> None:
    """Write an int16 CT slice.

    Args:
        path: the file.
        stored: stored values, ``(rows, columns)``, or ``(frames, rows, columns)``.
        position: centre of the first voxel, LPS in mm; ``None`` leaves the tag out.
        orientation: direction of the rows, then of the columns, LPS.
        spacing: step along a row and along a column, in mm (DICOM's tag has them the other way round).
        number: instance number, ``None`` leaves it out.
        series: series UID.
        slope: rescale slope.
        intercept: rescale intercept.
        padding: pixel padding value (stored value).
    """
    frames = stored.shape[0] if stored.ndim == 3 else None
    rows, columns = stored.shape[-2:]
    elements = {
        "0008|0016": ("UI", CT_IMAGE),
        "0008|0018": ("UI", f"{series}.{number or 0}"),
        "0008|0060": ("CS", "CT"),
        "0020|000d": ("UI", "1.2.3"),
        "0020|000e": ("UI", series),
        "0020|0013": ("IS", number),
        "0020|0032": ("DS", None if position is None else ds(*position)),
        "0020|0037": ("DS", ds(*orientation)),
        "0028|0002": ("US", 1),
        "0028|0004": ("CS", "MONOCHROME2"),
        "0028|0008": ("IS", frames),
        "0028|0010": ("US", rows),
        "0028|0011": ("US", columns),
        "0028|0030": ("DS", ds(spacing[1], spacing[0])),
        "0028|0100": ("US", 16),
        "0028|0101": ("US", 16),
        "0028|0102": ("US", 15),
        "0028|0103": ("US", 1),
        "0028|0120": ("SS", padding),
        "0028|1052": ("DS", ds(intercept)),
        "0028|1053": ("DS", ds(slope)),
        "7fe0|0010": ("OW", stored.astype("<i2").tobytes()),
    }
    body = b"".join(element(tag, vr, value) for tag, (vr, value) in elements.items() if value is not None)
    meta = (
        element("0002|0001", "OB", b"\0\1")
        + element("0002|0002", "UI", CT_IMAGE)
        + element("0002|0003", "UI", "1.2.3.4.5")
        + element("0002|0010", "UI", EXPLICIT_LITTLE_ENDIAN)
        + element("0002|0012", "UI", "1.2.3.9")
    )
    path.write_bytes(b"\0" * 128 + b"DICM" + element("0002|0000", "UL", len(meta)) + meta + body)


def write_series(
    folder: Path,
    origins: Sequence[Sequence[float]] | np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    *,
    size: tuple[int, int] = (12, 10),
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (1.0, 1.0),
    slope: float = 1.0,
    intercept: float = 0.0,
    **options: Any,
) -> Path:
    """Write a series of slices of a function of space.

    Args:
        folder: created if needed; files are ``000.dcm``, ``001.dcm``, ...
        origins: position of the first voxel of every slice, LPS in mm.
        value: HU of world positions ``(..., 3)``, RAS in mm.
        size: voxels along a row and along a column.
        orientation: direction of the rows, then of the columns, LPS.
        spacing: step along a row and along a column, in mm.
        slope: rescale slope.
        intercept: rescale intercept.
        options: see ``write_slice``.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    u, v = np.meshgrid(np.arange(size[0]) * spacing[0], np.arange(size[1]) * spacing[1])
    for index, origin in enumerate(np.asarray(origins, dtype=float)):
        lps = origin + u[..., None] * row + v[..., None] * column
        stored = np.rint((value(lps * [-1, -1, 1]) - intercept) / slope)
        keywords = {"number": index + 1, **options}
        write_slice(
            folder / f"{index:03d}.dcm",
            stored,
            origin,
            orientation=orientation,
            spacing=spacing,
            slope=slope,
            intercept=intercept,
            **keywords,
        )
    return folder
