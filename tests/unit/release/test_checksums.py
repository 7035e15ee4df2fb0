"""Checksums and their list."""

import hashlib
import subprocess

import pytest

from bertswin_ext.release.checksums import checked_sha256, read_checksums, sha256_of, write_checksums

HEX = hashlib.sha256(b"a").hexdigest()


def test_the_checksum_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    assert sha256_of(tmp_path / "a") == HEX


def test_the_list_is_read_by_sha256sum_and_by_us(tmp_path):
    for name in ("b.zip", "a b.whl"):
        (tmp_path / name).write_text(name)
    path = write_checksums(tmp_path, ["b.zip", "a b.whl"])
    done = subprocess.run(["sha256sum", "--check", "--strict", path.name], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert read_checksums(path.read_text()) == {name: sha256_of(tmp_path / name) for name in ("a b.whl", "b.zip")}


@pytest.mark.parametrize("line", [f"{HEX}  a.zip", f"{HEX} *a.zip", f"{HEX.upper()}  a.zip\r"])
def test_lines_as_other_programs_write_them(line):
    assert read_checksums(f"# release\n{line}\n") == {"a.zip": HEX}


@pytest.mark.parametrize("line", ["", "<html>", f"{HEX[:-1]}  a.zip", f"{HEX}", f"{HEX}a.zip"])
def test_lines_that_are_no_checksums(line):
    assert read_checksums(line) == {}


def test_a_checksum_that_a_user_gives():
    assert checked_sha256(f" {HEX.upper()}\n") == HEX


@pytest.mark.parametrize("value", ["", HEX[:40], "g" * 64, "sha256:" + HEX])
def test_what_is_no_checksum(value):
    with pytest.raises(ValueError, match=r"`sha256` must be 64 hexadecimal digits, got"):
        checked_sha256(value)
