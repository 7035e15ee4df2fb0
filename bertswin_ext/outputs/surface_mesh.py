"""The surface of one class of a label map, as triangles in the world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertswin_ext.errors import times
from bertswin_ext.geometry import Floats, moved
from bertswin_ext.outputs.mesh_files import Frame, write_mesh
from bertswin_ext.outputs.net_smoothing import smoothed
from bertswin_ext.outputs.surface_nets import surface_net

__all__ = ["SurfaceMesh", "class_surface", "write_surface"]

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class SurfaceMesh:
    """A closed surface: every edge has two triangles.

    Attributes:
        vertices_mm: positions in the RAS world, float32 (n, 3).
        triangles: three vertices each, int32 (m, 3), counter-clockwise as seen from outside.
    """

    vertices_mm: npt.NDArray[np.float32]
    triangles: npt.NDArray[np.int32]

    @property
    def volume_ml(self) -> float:
        """What the surface encloses."""
        a, b, c = (self._from_middle()[self.triangles[:, n]] for n in range(3))
        return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6000.0

    @property
    def area_mm2(self) -> float:
        """How large the surface is."""
        a, b, c = (self._from_middle()[self.triangles[:, n]] for n in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()) / 2.0

    def _from_middle(self) -> Floats:
        """Positions from a place among them, where sums are exact enough."""
        return self.vertices_mm.astype(np.float64) - self.vertices_mm.mean(axis=0, dtype=np.float64)


def class_surface(label: Labels, affine: npt.ArrayLike, class_id: int) -> SurfaceMesh | None:
    """The smooth surface of one class, closed also where the volume ends.

    It is the surface between the voxels of the class and all others. No vertex is further than half a voxel along each
    axis from a corner of the voxels, and the centre of every voxel lies on the side of its label: thin bone has no
    holes that the label has not, and the joint space does not close. Besides the label, memory goes with the box of
    the class (2 bytes a voxel) and its surface (about 250 bytes for each face of a voxel).

    Args:
        label: label map (i, j, k).
        affine: voxel to RAS world in mm, (4, 4); axes of any direction, length and tilt.
        class_id: the class.

    Returns:
        The surface; None if no voxel is of the class.

    Raises:
        ValueError: the label map is not (i, j, k), or the affine not (4, 4).

    Example:
        >>> label = np.zeros((40, 40, 40), dtype=np.uint8)
        >>> label[10:30, 10:30, 10:30] = 2
        >>> cube = class_surface(label, np.diag([0.5, 0.5, 0.5, 1.0]), 2)
        >>> round(cube.volume_ml, 2)  # a cube of 10 mm
        1.0
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if label.ndim != 3 or matrix.shape != (4, 4):
        raise ValueError(
            "The label map must be (i, j, k) and its affine 4 x 4, got a label map of "
            f"{times(label.shape)} voxels and an affine of {times(matrix.shape)}."
        )
    box = _box_of(label, class_id)
    if box is None:
        return None
    net = surface_net(label[box] == class_id)
    places = smoothed(net) + np.array([part.start for part in box], dtype=np.float32)
    triangles = _triangles(places, net.faces)
    if np.linalg.det(matrix[:3, :3]) < 0:  # the world sees the grid in a mirror
        triangles = triangles[:, ::-1]
    return SurfaceMesh(moved(matrix, places).astype(np.float32), np.ascontiguousarray(triangles))


def write_surface(
    label: Labels, affine: npt.ArrayLike, class_id: int, path: str | Path, frame: Frame = "LPS"
) -> SurfaceMesh | None:
    """Write the surface of one class, see `class_surface`, as binary STL or PLY.

    Args:
        label: label map (i, j, k).
        affine: voxel to RAS world in mm, (4, 4).
        class_id: the class.
        path: ends in .stl or .ply; its folder is made. PLY is less than half as large.
        frame: what the coordinates in the file mean, written into it; 3D Slicer opens either in the right place.

    Returns:
        The surface, in RAS; None if no voxel is of the class, then no file is written.

    Raises:
        ValueError: the suffix or the frame is another one, or the label map no volume.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_surface(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4), 1, Path(folder) / "mandible.stl")
    """
    mesh = class_surface(label, affine, class_id)
    if mesh is not None:
        write_mesh(path, mesh.vertices_mm, mesh.triangles, frame)
    return mesh


def _box_of(label: Labels, class_id: int) -> tuple[slice, ...] | None:
    """The box of a class, looked for plane by plane."""
    seen = [np.zeros(size, dtype=bool) for size in label.shape]
    for i, plane in enumerate(label):
        found = plane == class_id
        across = found.any(axis=0)
        seen[0][i] = across.any()
        seen[1] |= found.any(axis=1)
        seen[2] |= across
    spans = [np.flatnonzero(axis) for axis in seen]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans) if len(spans[0]) else None


def _triangles(places: npt.NDArray[np.float32], faces: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Cut every face along its shorter diagonal."""
    first, second = (places[faces[:, n]] - places[faces[:, n + 2]] for n in (0, 1))
    along_first = (np.einsum("ij,ij->i", first, first) <= np.einsum("ij,ij->i", second, second))[:, None]
    one = np.where(along_first, faces[:, [0, 1, 2]], faces[:, [0, 1, 3]])
    other = np.where(along_first, faces[:, [0, 2, 3]], faces[:, [1, 2, 3]])
    return np.concatenate([one, other])
