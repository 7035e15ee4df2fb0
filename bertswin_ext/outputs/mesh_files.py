"""Triangles as binary STL and PLY files, with the frame of their coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from bertswin_ext.files import written_whole

__all__ = ["MESH_SUFFIXES", "Frame", "write_mesh"]

MESH_SUFFIXES = (".stl", ".ply")

Frame = Literal["LPS", "RAS"]
Vertices = npt.NDArray[np.float32]
Triangles = npt.NDArray[np.int32]

_AT_ONCE = 1 << 16
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_PLY_TRIANGLE = np.dtype([("count", "u1"), ("vertices", "<i4", 3)])


def write_mesh(path: str | Path, vertices_mm: npt.ArrayLike, triangles: Triangles, frame: Frame = "LPS") -> None:
    """Write a mesh.

    The frame is named in the header of an STL and in a comment of a PLY file as ``SPACE=LPS`` or ``SPACE=RAS``, where
    3D Slicer looks for it. Without a name 3D Slicer takes LPS, as DICOM does, and so do most programs.

    Args:
        path: ends in .stl or .ply; its folder is made.
        vertices_mm: positions in the RAS world, (n, 3).
        triangles: three vertices each, counter-clockwise as seen from outside.
        frame: what the coordinates in the file mean.

    Raises:
        ValueError: the suffix or the frame is another one.

    Source: `vtkMRMLModelStorageNode` of 3D Slicer, for how it finds the frame.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     corners = np.eye(3, dtype=np.float32)
        ...     write_mesh(Path(folder) / "one.stl", corners, np.array([[0, 1, 2]], dtype=np.int32))
        ...     (Path(folder) / "one.stl").stat().st_size
        134
    """
    suffix = Path(path).suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"A surface's file must end in .stl or .ply, got {path}.")
    if frame not in ("LPS", "RAS"):
        raise ValueError(f'`frame` must be "LPS" or "RAS", got {frame!r}. 3D Slicer expects "LPS".')
    vertices = np.array(vertices_mm, dtype="<f4")
    if frame == "LPS":
        vertices[:, :2] *= -1
    with written_whole(path) as temporary, temporary.open("wb") as file:
        (_write_stl if suffix == ".stl" else _write_ply)(file, vertices, triangles, frame)


def _write_stl(file: BinaryIO, vertices: Vertices, triangles: Triangles, frame: Frame) -> None:
    """Header, count, and every triangle with its normal and its own copy of the corners."""
    # a reader takes a file that begins with "solid" for text
    file.write(f"binary STL, mm, SPACE={frame}".encode().ljust(80))
    file.write(np.array(len(triangles), dtype="<u4").tobytes())
    for some in _parts(triangles):
        written = np.zeros(len(some), dtype=_STL_TRIANGLE)
        written["corners"] = vertices[some]
        written["normal"] = _unit_normals(vertices[some])
        file.write(written.tobytes())


def _write_ply(file: BinaryIO, vertices: Vertices, triangles: Triangles, frame: Frame) -> None:
    """Header, all vertices, and which of them each triangle has."""
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment SPACE={frame}",
        "comment unit mm",
        f"element vertex {len(vertices)}",
        *(f"property float {name}" for name in "xyz"),
        f"element face {len(triangles)}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    file.write("\n".join([*header, ""]).encode("ascii"))
    file.write(vertices.tobytes())
    for some in _parts(triangles):
        written = np.zeros(len(some), dtype=_PLY_TRIANGLE)
        written["count"], written["vertices"] = 3, some
        file.write(written.tobytes())


def _parts(triangles: Triangles) -> Iterator[Triangles]:
    """Some triangles at a time, so that a large mesh is not in memory twice."""
    return (triangles[start : start + _AT_ONCE] for start in range(0, len(triangles), _AT_ONCE))


def _unit_normals(corners: Vertices) -> Vertices:
    """Normals of triangles (n, 3, 3); 0 for one without an area, as STL has it."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0))
