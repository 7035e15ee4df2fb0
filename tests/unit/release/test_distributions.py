"""The sdist and the wheel."""

import tarfile
import zipfile

import pytest

from bertswin_ext.release.commit import Commit
from bertswin_ext.release.distributions import build_distributions


def test_what_is_built(repository, tmp_path):
    commit = Commit.head(repository)
    commit.export(tmp_path / "source")
    sdist, wheel = build_distributions(tmp_path / "source", tmp_path / "dist", commit.time)
    assert (sdist.name, wheel.name) == ("toy_ext-0.3.1.tar.gz", "toy_ext-0.3.1-py3-none-any.whl")
    with tarfile.open(sdist) as archive:
        assert {"toy_ext-0.3.1/toy_ext/__init__.py", "toy_ext-0.3.1/PKG-INFO"} <= set(archive.getnames())
        assert {member.mtime for member in archive} == {commit.time}
    with zipfile.ZipFile(wheel) as archive:
        assert "toy_ext/__init__.py" in archive.namelist()
        assert archive.namelist()[-1] == "toy_ext-0.3.1.dist-info/RECORD"


def test_a_package_that_cannot_be_built(tmp_path):
    (tmp_path / "setup.cfg").write_text(
        "[metadata]\nname = toy\nversion = file: gone.txt\n[options]\npackages = gone\n"
    )
    with pytest.raises(ValueError, match=r"setuptools could not build the package in .*\n[\s\S]*gone"):
        build_distributions(tmp_path, tmp_path / "dist", 1_700_000_000)
