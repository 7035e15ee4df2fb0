"""Files appear whole or not at all."""

import pytest

from bertswin_ext.files import written_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "a.txt"
    with written_whole(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["a.txt"]


def test_a_string_is_a_path(tmp_path):
    with written_whole(str(tmp_path / "a.txt")) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write():
        with written_whole(target) as temporary:
            temporary.write_text("hal")
            raise error("the disk is full")

    with pytest.raises(error, match="the disk is full"):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_old_file_stays_until_the_end(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError, match=r"a\.txt"), written_whole(target):
        pass
    assert target.read_text() == "old"


def test_no_glob_of_the_target_meets_the_unfinished_file(tmp_path):
    with written_whole(tmp_path / "checkpoint_1.pt") as temporary:
        temporary.write_text("half")
        assert list(tmp_path.glob("checkpoint_*.pt")) == []
