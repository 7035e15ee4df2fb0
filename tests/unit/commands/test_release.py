"""The command that builds a release."""

import fire
import pytest

from bertswin_ext.commands.release import release
from tests.unit.release.small_repository import git, write, write_repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("repository") / "toy")


def run(*arguments):
    return fire.Fire({"release": release}, command=["release", *map(str, arguments)])


@pytest.mark.parametrize("bundles", ["inference,pretrain", "(inference, pretrain)", "['inference','pretrain']"])
def test_the_bundles_that_are_named(repository, tmp_path, bundles, monkeypatch, capsys):
    monkeypatch.setattr("bertswin_ext.release.build.build_distributions", lambda *_: [])
    run("--output", tmp_path / "dist", "--bundles", bundles, "--repository", repository)
    written = [tmp_path / "dist" / name for name in ("bertswin_inference_v0.3.1.zip", "bertswin_pretrain_v0.3.1.zip")]
    written += [tmp_path / "dist" / name for name in ("SHA256SUMS", "models/model_info.json")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert all(path.is_file() for path in written)


def test_a_tree_with_changes(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("bertswin_ext.release.build.build_distributions", lambda *_: [])
    git(repository, "clone", "--quiet", str(repository), str(tmp_path / "clone"))
    write(tmp_path / "clone" / "new.txt", "x")
    options = ("--output", tmp_path / "dist", "--bundles", "inference", "--repository", tmp_path / "clone")
    with pytest.raises(ValueError, match=r"Found new.txt"):
        run(*options)
    run(*options, "--allow_dirty", "true")
    assert (tmp_path / "dist" / "SHA256SUMS").is_file()


def test_flags_without_a_value(repository):
    with pytest.raises(TypeError, match=r"`--output` must be a path, got none"):
        run("--repository", repository, "--output")
