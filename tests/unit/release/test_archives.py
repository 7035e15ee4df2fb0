"""Archives do not tell when, where and by whom they were made."""

import io
import os
import tarfile
import zipfile

import pytest

from bertswin_ext.release.archives import rewrite_sdist, rewrite_wheel, write_zip

FILES = {
    "b.txt": b"b" * 1000,
    "a/c.txt": b"c",
    "a/b.bin": bytes(range(256)),
    "toy-1.dist-info/RECORD": b"",
    "z.py": b"",
}


def write_folder(folder, names, mode, time):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name])
        path.chmod(mode)
        os.utime(path, (time, time))
    return folder


def test_a_zip_depends_on_names_and_contents_alone(tmp_path):
    one = write_folder(tmp_path / "here" / "toy", FILES, 0o644, 1_000_000_000)
    other = write_folder(tmp_path / "there" / "toy", reversed(FILES), 0o700, 2_000_000_000)
    write_zip(one, tmp_path / "one.zip")
    write_zip(other, tmp_path / "other.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {f"toy/{n}": c for n, c in FILES.items()}


def test_another_content_is_another_zip(tmp_path):
    folder = write_folder(tmp_path / "toy", FILES, 0o644, 1_000_000_000)
    write_zip(folder, tmp_path / "one.zip")
    (folder / "z.py").write_bytes(b"#")
    write_zip(folder, tmp_path / "other.zip")
    assert (tmp_path / "one.zip").read_bytes() != (tmp_path / "other.zip").read_bytes()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wheel_is_rewritten_with_its_list_last(tmp_path, compression):
    path = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", compression) as wheel:
        wheel.mkdir("a")
        for name in reversed(FILES):
            wheel.writestr(name, FILES[name])
    rewrite_wheel(path)
    with zipfile.ZipFile(path) as wheel:
        assert wheel.namelist() == ["a/b.bin", "a/c.txt", "b.txt", "z.py", "toy-1.dist-info/RECORD"]
        assert all(wheel.read(name) == content for name, content in FILES.items())
        assert {member.date_time for member in wheel.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(("owner", "mtime", "mode"), [("me", 5, 0o600), ("you", 6, 0o777)])
def test_an_sdist_is_rewritten(tmp_path, owner, mtime, mode):
    path = tmp_path / "toy-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in FILES if owner == "me" else reversed(FILES):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode, member.uname = len(FILES[name]), mtime, mode, owner
            archive.addfile(member, io.BytesIO(FILES[name]))
    rewrite_sdist(path, time=1_600_000_000)
    with tarfile.open(path) as archive:
        assert archive.getnames() == sorted(FILES)
        assert {(m.mtime, m.mode, m.uname, m.uid) for m in archive} == {(1_600_000_000, 0o644, "", 0)}
        assert all(archive.extractfile(name).read() == content for name, content in FILES.items())
    # the header of gzip: no name, the time given
    assert path.read_bytes()[3] == 0
    assert int.from_bytes(path.read_bytes()[4:8], "little") == 1_600_000_000
