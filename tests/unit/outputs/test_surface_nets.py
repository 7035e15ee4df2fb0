"""Nets are closed, whatever the mask; every vertex has one sheet of faces."""

import numpy as np
import pytest

from bertswin_ext.outputs import surface_nets
from bertswin_ext.outputs.surface_nets import surface_net


def directed_edges(faces):
    size = faces.shape[1]
    return np.concatenate([faces[:, [n, (n + 1) % size]] for n in range(size)])


def is_closed(faces):
    """Every edge is passed once each way."""
    edges, counts = np.unique(directed_edges(faces), axis=0, return_counts=True)
    return (counts == 1).all() and np.array_equal(edges, np.unique(edges[:, ::-1], axis=0))


def sheets_at_vertices(net):
    """How many circles of faces there are round each vertex."""
    before = np.roll(net.faces, 1, axis=1).ravel()
    after = np.roll(net.faces, -1, axis=1).ravel()
    following = {(v, a): (v, b) for v, a, b in zip(net.faces.ravel(), after, before, strict=True)}
    circles = np.zeros(len(net.corners_vox), dtype=int)
    left = set(following)
    while left:
        start = step = left.pop()
        while (step := following[step]) != start:
            left.remove(step)
        circles[start[0]] += 1
    return circles


def noise(seed, share=0.4, shape=(9, 8, 7)):
    return np.random.default_rng(seed).random(shape) < share


def test_one_voxel_is_a_cube():
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 2, 3] = True
    net = surface_net(mask)
    assert net.faces.shape == (6, 4)
    assert sorted(map(tuple, net.corners_vox.tolist())) == [
        (i, j, k) for i in (0.5, 1.5) for j in (1.5, 2.5) for k in (2.5, 3.5)
    ]


def test_faces_look_outwards():
    net = surface_net(np.ones((1, 1, 1), dtype=bool))
    a, b, c, _ = net.corners_vox[net.faces].transpose(1, 0, 2)
    normals = np.cross(b - a, c - b)
    assert np.array_equal(normals, 2 * net.corners_vox[net.faces].mean(axis=1))


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(6))
def test_noise_has_a_closed_net_with_one_sheet_at_every_vertex(seed, share):
    net = surface_net(noise(seed, share))
    assert is_closed(net.faces)
    assert (sheets_at_vertices(net) == 1).all()


def test_two_vertices_share_one_edge_at_most_because_edges_are_flipped(monkeypatch):
    masks = [noise(seed) for seed in range(6)]
    monkeypatch.setattr(surface_nets, "_flipped_edges", lambda shape, corners, voxels: np.zeros_like(voxels))
    assert not all(is_closed(surface_net(mask).faces) for mask in masks)


def test_there_is_a_face_between_every_voxel_and_its_outer_neighbours():
    mask = noise(0)
    padded = np.pad(mask, 1).astype(int)
    assert len(surface_net(mask).faces) == sum(np.abs(np.diff(padded, axis=axis)).sum() for axis in range(3))


def test_voxels_that_share_an_edge_hang_together_as_in_a_slanted_plate():
    plate = np.zeros((8, 8, 5), dtype=bool)
    plate[np.arange(8), np.arange(8)] = True
    assert parts(surface_net(plate)) == 1


def test_voxels_that_share_a_corner_do_not():
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert parts(surface_net(mask)) == 2


def test_a_hole_has_a_surface_of_its_own():
    mask = np.ones((5, 5, 5), dtype=bool)
    mask[2, 2, 2] = False
    net = surface_net(mask)
    assert parts(net) == 2
    assert euler(net) == 4


@pytest.mark.parametrize("hole", [False, True])
def test_a_ring_has_one_handle(hole):
    mask = np.ones((5, 5, 2), dtype=bool)
    mask[2, 2] = not hole
    assert euler(surface_net(mask)) == (0 if hole else 2)


def test_an_empty_mask():
    net = surface_net(np.zeros((3, 3, 3), dtype=bool))
    assert net.corners_vox.shape == (0, 3)
    assert net.faces.shape == (0, 4)


def euler(net):
    return len(net.corners_vox) - len(directed_edges(net.faces)) // 2 + len(net.faces)


def parts(net):
    """Connected parts of a net."""
    numbers = np.arange(len(net.corners_vox))
    while True:
        least = numbers[net.faces].min(axis=1)
        before = numbers.copy()
        np.minimum.at(numbers, net.faces.ravel(), np.repeat(least, 4))
        if np.array_equal(before, numbers):
            return len(np.unique(numbers))
