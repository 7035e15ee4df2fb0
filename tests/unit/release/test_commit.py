"""A release takes what is committed, and nothing else."""

import pytest

from bertswin_ext.release.commit import Commit
from tests.unit.release.small_repository import TIME, commit, git, write


@pytest.fixture
def clone(repository, tmp_path):
    git(repository, "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    return tmp_path / "clone"


def test_the_head_of_a_clean_tree_from_any_folder_of_it(repository):
    found = Commit.head(repository / "bundles" / "pretrain")
    assert found.repository == repository.resolve()
    assert (len(found.name), found.time) == (40, TIME)


@pytest.mark.parametrize("name", ["README.md", "bundles/pretrain/new.txt"])
def test_changes_are_refused_or_left_out(clone, tmp_path, name):
    write(clone / name, "changed")
    with pytest.raises(ValueError, match=rf"must have no changes beside its last commit.* Found {name}"):
        Commit.head(clone)
    Commit.head(clone, allow_dirty=True).export(tmp_path / "out")
    assert not (tmp_path / "out" / name).exists() or (tmp_path / "out" / name).read_text() == "toy\n"


def test_files_that_git_ignores_are_no_changes(clone, tmp_path):
    write(clone / "dist" / "old.zip", "x")
    Commit.head(clone).export(tmp_path / "out")
    assert not (tmp_path / "out" / "dist").exists()


def test_the_settings_of_a_user_change_nothing(clone, tmp_path):
    git(clone, "config", "core.autocrlf", "true")
    Commit.head(clone).export(tmp_path / "out", ["README.md"])
    assert (tmp_path / "out" / "README.md").read_bytes() == b"toy\n"
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["README.md"]


def test_a_path_that_is_not_committed(repository, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be exported: .*gone"):
        Commit.head(repository).export(tmp_path, ["gone"])


def test_a_committed_link(clone, tmp_path):
    (clone / "link").symlink_to("/etc/passwd")
    commit(clone)
    with pytest.raises(ValueError, match=r"must have no links, found link"):
        Commit.head(clone).export(tmp_path / "out")


def test_the_text_of_a_committed_file(repository):
    assert Commit.head(repository).text("README.md") == "toy\n"
    assert Commit.head(repository).text("models/model_info.json") is None


def test_a_folder_without_a_repository(tmp_path):
    with pytest.raises(ValueError, match=r"must be in a git repository with a commit: .*Run it in a clone"):
        Commit.head(tmp_path)
