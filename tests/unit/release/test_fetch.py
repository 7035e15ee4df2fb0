"""Fetching files and their checksums."""

import hashlib
import logging

import pytest

from bertswin_ext.release.fetch import expected_sha256, fetch, quiet_monai
from tests.unit.release.loopback import served

CONTENT = b"archive"
HEX = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "files" / "a.zip").write_bytes(CONTENT)
    return tmp_path / "files"


@pytest.fixture(params=["url", "path"])
def base(request, folder):
    if request.param == "path":
        yield str(folder)
        return
    with served(folder) as address:
        yield address


def test_a_file_is_fetched(base, tmp_path):
    assert fetch(f"{base}/a.zip", tmp_path / "b.zip", HEX).read_bytes() == CONTENT


def test_another_checksum(base, tmp_path):
    with pytest.raises(ValueError, match=r"a.zip does not have the checksum 0000.*Fetch it again"):
        fetch(f"{base}/a.zip", tmp_path / "b.zip", "0" * 64)


def test_a_file_that_is_not_there(base, tmp_path):
    with pytest.raises(ValueError, match=r"gone.zip cannot be fetched: .*Check the address"):
        fetch(f"{base}/gone.zip", tmp_path / "b.zip", HEX)


def test_the_checksum_beside_the_file(base, folder, tmp_path):
    (folder / "SHA256SUMS").write_text(f"{'1' * 64}  b.zip\n{HEX}  a.zip\n")
    assert expected_sha256(f"{base}/a.zip", None, tmp_path / "work") == HEX


def test_no_list_beside_the_file(base, tmp_path):
    with pytest.raises(ValueError, match=r"SHA256SUMS cannot be read, so a.zip cannot be checked. Give .*--sha256 HEX"):
        expected_sha256(f"{base}/a.zip", None, tmp_path / "work")


def test_a_list_without_the_file(base, folder, tmp_path):
    (folder / "SHA256SUMS").write_text(f"{HEX}  b.zip\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS has no line for a.zip, so a.zip cannot be checked"):
        expected_sha256(f"{base}/a.zip", None, tmp_path / "work")


def test_what_the_user_says_counts_more(base, folder, tmp_path, caplog):
    (folder / "SHA256SUMS").write_text(f"{'1' * 64}  a.zip\n")
    assert expected_sha256(f"{base}/a.zip", HEX.upper(), tmp_path) == HEX
    assert expected_sha256(f"{base}/a.zip", "None", tmp_path) is None
    assert "a.zip is not checked against a checksum" in caplog.text


def test_a_query_is_no_part_of_the_name(folder, tmp_path):
    (folder / "SHA256SUMS").write_text(f"{HEX}  a.zip\n")
    with served(folder) as address:
        assert expected_sha256(f"{address}/a.zip?download=1", None, tmp_path / "work") == HEX


def test_monai_is_quiet_only_for_a_while():
    theirs = logging.getLogger("monai.apps")
    before = theirs.level
    with quiet_monai():
        assert not theirs.isEnabledFor(logging.ERROR)
    assert theirs.level == before
