"""Surfaces of label maps against shapes whose volume and area are known."""

import numpy as np
import pytest

from bertswin_ext.outputs.surface_mesh import class_surface, write_surface

RADIUS_MM = 8.0
CENTER_MM = np.array([3.0, -5.0, 40.0])


def turned(degrees=25.0):
    """A rotation about no axis in particular."""
    angle, axis = np.radians(degrees), np.array([1.0, 2.0, 2.0]) / 3.0
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine_of(directions, spacing, shape):
    """An affine whose grid has the ball in its middle."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * spacing
    affine[:3, 3] = CENTER_MM - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def ball(affine, shape, class_id=2, radius=RADIUS_MM):
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    return np.where(np.linalg.norm(places - CENTER_MM, axis=-1) <= radius, class_id, 0).astype(np.uint8)


GRIDS = {
    "even": (np.eye(3), (0.4, 0.4, 0.4)),
    "uneven": (np.eye(3), (0.3, 0.5, 0.8)),
    "mirrored": (np.diag([-1, 1, 1]), (0.4, 0.5, 0.4)),
    "turned": (turned(), (0.4, 0.4, 0.6)),
    "turned and mirrored": (turned() @ np.diag([1, 1, -1]), (0.4, 0.4, 0.4)),
    "swapped": (np.eye(3)[[1, 0, 2]], (0.4, 0.4, 0.4)),
    "sheared": (np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1]]), (0.4, 0.4, 0.4)),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_has_its_volume_area_and_place_and_looks_outwards(grid):
    shape = (64, 60, 56)
    affine = affine_of(*GRIDS[grid], shape)
    mesh = class_surface(ball(affine, shape), affine, 2)
    assert mesh.volume_ml == pytest.approx(4 / 3 * np.pi * RADIUS_MM**3 / 1000, rel=0.01)
    assert mesh.area_mm2 == pytest.approx(4 * np.pi * RADIUS_MM**2, rel=0.02)
    assert mesh.vertices_mm.mean(axis=0) == pytest.approx(CENTER_MM, abs=0.05)
    radii = np.linalg.norm(mesh.vertices_mm - CENTER_MM, axis=1)
    assert np.abs(radii - RADIUS_MM).max() < 0.5
    assert euler_if_closed(mesh.triangles) == 2


def euler_if_closed(triangles):
    """Vertices - edges + triangles of a surface whose edges are all passed once each way."""
    edges, counts = np.unique(
        np.concatenate([triangles[:, [n, (n + 1) % 3]] for n in range(3)]), axis=0, return_counts=1
    )
    assert (counts == 1).all()
    assert np.array_equal(edges, np.unique(edges[:, ::-1], axis=0))
    return len(np.unique(triangles)) - len(edges) // 2 + len(triangles)


def test_noise_is_closed_as_triangles_too():
    label = (np.random.default_rng(0).random((9, 9, 9)) < 0.4).astype(np.uint8)
    euler_if_closed(class_surface(label, np.eye(4), 1).triangles)


def test_the_steps_between_voxels_are_gone():
    shape = (64, 60, 56)
    affine = affine_of(*GRIDS["even"], shape)
    mesh = class_surface(ball(affine, shape), affine, 2)
    corners = mesh.vertices_mm[mesh.triangles].astype(float)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = corners.mean(axis=1) - CENTER_MM
    cosines = (normals * outwards).sum(axis=1) / np.linalg.norm(normals, axis=1) / np.linalg.norm(outwards, axis=1)
    assert np.degrees(np.arccos(np.sqrt((cosines**2).mean()))) < 6  # of voxels' own faces it is 45


def test_a_class_is_told_from_others_and_from_the_background():
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[4:16, 4:10, 4:16], label[4:16, 10:16, 4:16] = 1, 2
    first, second = (class_surface(label, np.eye(4), value) for value in (1, 2))
    assert first.vertices_mm[:, 1].max() == pytest.approx(9.5, abs=0.25)
    assert second.vertices_mm[:, 1].min() == pytest.approx(9.5, abs=0.25)


def test_a_class_that_the_volume_cuts_off_is_closed_there():
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[:, :, 12:] = 1
    mesh = class_surface(label, np.diag([0.5, 0.5, 0.5, 1.0]), 1)
    assert euler_if_closed(mesh.triangles) == 2
    assert mesh.volume_ml == pytest.approx(0.4, rel=0.02)
    assert mesh.vertices_mm[:, 2].max() == pytest.approx(19.5 * 0.5, abs=0.125)


def test_thin_bone_has_no_holes():
    label = np.zeros((24, 24, 12), dtype=np.uint8)
    label[2:22, 2:22, 6] = 1
    mesh = class_surface(label, np.eye(4), 1)
    assert euler_if_closed(mesh.triangles) == 2
    assert mesh.volume_ml == pytest.approx(0.4, rel=0.12)  # the rim gets round


def test_labels_in_fortrans_order():
    shape = (20, 18, 16)
    affine = affine_of(*GRIDS["uneven"], shape)
    label = ball(affine, shape, radius=2.5)
    one, other = (class_surface(volume, affine, 2) for volume in (label, np.asfortranarray(label)))
    assert np.array_equal(one.vertices_mm, other.vertices_mm)
    assert np.array_equal(one.triangles, other.triangles)


@pytest.mark.parametrize("suffix", [".stl", ".ply"])
def test_an_absent_class_leaves_no_file(tmp_path, suffix):
    assert write_surface(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4), 1, tmp_path / f"a{suffix}") is None
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_in_lps_and_what_comes_back_in_ras(tmp_path):
    label = np.zeros((6, 6, 6), dtype=np.uint8)
    label[2:4, 2:4, 2:4] = 1
    affine = np.eye(4)
    affine[:3, 3] = [100, 50, 7]
    mesh = write_surface(label, affine, 1, tmp_path / "a.stl")
    corners = np.frombuffer(
        (tmp_path / "a.stl").read_bytes()[84:], np.dtype([("normal", "<f4", 3), ("v", "<f4", (3, 3)), ("x", "<u2")])
    )["v"]
    assert mesh.vertices_mm.mean(axis=0) == pytest.approx([102.5, 52.5, 9.5], abs=0.01)
    assert corners.reshape(-1, 3).mean(axis=0) == pytest.approx([-102.5, -52.5, 9.5], abs=0.1)


@pytest.mark.parametrize(("shape", "affine"), [((1, 4, 4, 4), np.eye(4)), ((4, 4, 4), np.eye(3))])
def test_what_is_no_volume_is_refused(shape, affine):
    with pytest.raises(ValueError, match=r"must be \(i, j, k\) and its affine 4 x 4, got a label map of .* voxels and"):
        class_surface(np.zeros(shape, dtype=np.uint8), affine, 1)
