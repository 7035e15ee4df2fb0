"""Archives that may be unpacked, and those that may not."""

import zipfile

import pytest

from bertswin_ext.release import archive_check
from bertswin_ext.release.archive_check import check_archive
from tests.unit.release.archives_to_refuse import link, write_archive

GOOD = [("toy/LICENSE", "x"), ("toy/configs/metadata.json", "{}")]


def test_the_name_of_the_folder(tmp_path):
    assert check_archive(write_archive(tmp_path / "a.zip", GOOD)) == "toy"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("toy/../../evil", "x")], r"'toy/../../evil' must not climb out of its folder"),
        ([("../evil", "x")], r"'../evil' must not climb out"),
        ([("/tmp/evil", "x")], r"'/tmp/evil' must be a relative path"),
        ([("toy//evil", "x")], r"'toy//evil' must not climb out"),
        ([("toy\\..\\evil", "x")], r"must be a relative path"),
        ([("C:/evil", "x")], r"'C:/evil' must be a relative path"),
        ([link("toy/link", "/etc/passwd")], r"'toy/link' must be a plain file, found a link"),
        ([("toy/license", "y")], r"'toy/license' must stand once, found 2 times"),
        ([("toy/license/x", "y")], r"'toy/license' must be a file or a folder, found both"),
        ([("other/a", "x")], r"one top directory with everything in it, found other, toy"),
        ([("loose.txt", "x")], r"one top directory with everything in it, found loose.txt"),
    ],
)
def test_members_that_are_refused(tmp_path, members, message):
    path = write_archive(tmp_path / "a.zip", [*GOOD, *members])
    with pytest.raises(ValueError, match=message) as caught:
        check_archive(path)
    assert str(caught.value).endswith("It is not unpacked.")


@pytest.mark.parametrize("members", [[], [("a.txt", "x")], [(".ssh/authorized_keys", "x")]])
def test_archives_without_a_folder_of_a_plain_name(tmp_path, members):
    with pytest.raises(ValueError, match="top directory"):
        check_archive(write_archive(tmp_path / "a.zip", members))


def test_a_zip_bomb(tmp_path):
    path = write_archive(tmp_path / "a.zip", [*GOOD, ("toy/zeros", bytes(2**24))])
    with pytest.raises(ValueError, match=r"0.0 MiB must not unpack to 16 MiB, as a zip bomb does"):
        check_archive(path)


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_check, "_MAX_MEMBERS", 1)
    with pytest.raises(ValueError, match=r"at most 1 files, found 2"):
        check_archive(write_archive(tmp_path / "a.zip", GOOD))


def test_encrypted_members(tmp_path):
    path = write_archive(tmp_path / "a.zip", GOOD)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"'toy/LICENSE' must not be encrypted"):
        check_archive(path)


@pytest.mark.parametrize("keep", [0, 1, 60, 0.5, -1])
def test_a_truncated_archive(tmp_path, keep):
    path = write_archive(tmp_path / "a.zip", GOOD)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=r"a.zip is truncated or no zip: .* Fetch it again"):
        check_archive(path)


def test_an_archive_that_is_torn_behind_a_zip_in_it(tmp_path):
    """The inner one's end would be taken for that of the archive, and the inner one be unpacked."""
    inner = write_archive(tmp_path / "inner.zip", [("weights/data.pkl", "x")]).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("toy/model.pt", inner)
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content[: content.index(inner) + len(inner)])
    assert zipfile.ZipFile(tmp_path / "a.zip").namelist() == ["weights/data.pkl"]
    with pytest.raises(ValueError, match=r"a.zip is truncated or no zip: it does not begin with its first file"):
        check_archive(tmp_path / "a.zip")


def test_a_long_list_is_cut(tmp_path):
    path = write_archive(tmp_path / "a.zip", [(f"../{number}", "x") for number in range(9)])
    with pytest.raises(ValueError, match=r"and 4 more") as caught:
        check_archive(path)
    assert str(caught.value).count("must not climb") == 5


def test_archives_of_other_programs_are_accepted(tmp_path):
    """With entries for folders, and made where files have no modes."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("toy")
        member = zipfile.ZipInfo("toy/LICENSE")
        member.create_system = 0
        archive.writestr(member, "x")
    assert check_archive(path) == "toy"
