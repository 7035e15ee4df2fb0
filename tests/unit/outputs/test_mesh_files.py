"""What is in STL and PLY files, read without the code that wrote them."""

import re
import struct

import numpy as np
import pytest

from bertswin_ext.outputs import mesh_files
from bertswin_ext.outputs.mesh_files import write_mesh

VERTICES = np.array([[0, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 4]], dtype=np.float32)
TRIANGLES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=np.int32)
MIRRORED = VERTICES * [-1, -1, 1]


def read_stl(path):
    data = path.read_bytes()
    (count,) = struct.unpack_from("<I", data, 80)
    assert len(data) == 84 + 50 * count
    numbers = np.array([struct.unpack_from("<12f", data, 84 + 50 * n) for n in range(count)]).reshape(count, 4, 3)
    return data[:80].decode("ascii"), numbers[:, 0], numbers[:, 1:]


def read_ply(path):
    head, body = path.read_bytes().split(b"end_header\n", 1)
    vertices, faces = (int(re.search(rf"element {name} (\d+)", head.decode())[1]) for name in ("vertex", "face"))
    places = np.frombuffer(body, "<f4", vertices * 3).reshape(-1, 3)
    rest = [struct.unpack_from("<B3i", body, vertices * 12 + 13 * n) for n in range(faces)]
    assert len(body) == vertices * 12 + 13 * faces
    assert {row[0] for row in rest} == {3}
    return head.decode("ascii"), places, np.array([row[1:] for row in rest])


@pytest.mark.parametrize(("frame", "expected"), [("RAS", VERTICES), ("LPS", MIRRORED)])
def test_stl(tmp_path, frame, expected):
    write_mesh(tmp_path / "a.stl", VERTICES, TRIANGLES, frame)
    header, normals, corners = read_stl(tmp_path / "a.stl")
    assert f"SPACE={frame}" in header
    assert not header.startswith("solid")
    assert np.array_equal(corners, expected[TRIANGLES])
    sign = 1 if frame == "RAS" else -1
    assert normals[:3].tolist() == [[0, 0, -1], [0, -sign, 0], [-sign, 0, 0]]
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)


@pytest.mark.parametrize(("frame", "expected"), [("RAS", VERTICES), ("LPS", MIRRORED)])
def test_ply(tmp_path, frame, expected):
    write_mesh(tmp_path / "new" / "a.PLY", VERTICES, TRIANGLES, frame)
    header, places, triangles = read_ply(tmp_path / "new" / "a.PLY")
    assert header.startswith("ply\nformat binary_little_endian 1.0\n")
    assert f"comment SPACE={frame}\n" in header
    assert np.array_equal(places, expected)
    assert np.array_equal(triangles, TRIANGLES)


def test_the_frame_is_the_one_that_slicer_takes_without_being_told(tmp_path):
    write_mesh(tmp_path / "a.stl", VERTICES, TRIANGLES)
    assert "SPACE=LPS" in read_stl(tmp_path / "a.stl")[0]


def test_what_is_given_stays_as_it_is(tmp_path):
    given = VERTICES.copy()
    write_mesh(tmp_path / "a.stl", given, TRIANGLES, "LPS")
    assert np.array_equal(given, VERTICES)


@pytest.mark.parametrize("suffix", [".stl", ".ply"])
def test_large_meshes_are_written_in_parts(tmp_path, monkeypatch, suffix):
    write_mesh(tmp_path / f"whole{suffix}", VERTICES, TRIANGLES)
    monkeypatch.setattr(mesh_files, "_AT_ONCE", 3)
    write_mesh(tmp_path / f"parts{suffix}", VERTICES, TRIANGLES)
    assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_a_triangle_without_an_area_has_no_normal(tmp_path):
    write_mesh(tmp_path / "a.stl", VERTICES, np.array([[0, 1, 1]], dtype=np.int32))
    assert read_stl(tmp_path / "a.stl")[1].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("a.obj", "LPS", r"must end in \.stl or \.ply, got .*a\.obj"),
        ("a.stl", "XYZ", r'`frame` must be "LPS" or "RAS", got \'XYZ\'\. 3D Slicer'),
    ],
)
def test_other_files_and_frames_are_refused(tmp_path, name, frame, message):
    with pytest.raises(ValueError, match=message):
        write_mesh(tmp_path / name, VERTICES, TRIANGLES, frame)
    assert list(tmp_path.iterdir()) == []
