"""The command that downloads."""

import fire
import pytest

from bertswin_ext.commands.download import download
from bertswin_ext.release.archives import write_zip
from bertswin_ext.release.checksums import sha256_of
from tests.unit.release.small_repository import write


@pytest.fixture
def archive(tmp_path):
    """A bundle without weights."""
    write(tmp_path / "bertswin_toy" / "configs" / "metadata.json", "{}")
    write_zip(tmp_path / "bertswin_toy", tmp_path / "toy.zip")
    return tmp_path / "toy.zip"


def run(*arguments):
    return fire.Fire({"download": download}, command=["download", *map(str, arguments)])


def test_a_bundle_and_a_word_of_caution(archive, tmp_path, capsys):
    options = ("--url", archive, "--sha256", sha256_of(archive), "--bundle_dir", tmp_path / "here")
    run(*options)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        str(tmp_path / "here" / "bertswin_toy"),
        "Its configurations are programs: run it only if you trust who published it.",
    ]
    with pytest.raises(ValueError, match=r"bertswin_toy exists"):
        run(*options)
    run(*options, "--overwrite", "true")


def test_a_checksum_of_digits_alone(archive, tmp_path):
    """It stays a text; as a number it would lose its zeros."""
    with pytest.raises(ValueError, match=rf"does not have the checksum {'0' * 64}"):
        run("--url", archive, "--sha256", "0" * 64, "--bundle_dir", tmp_path / "here")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--url"], r"`--url` must be a path, got none"),
        (["--url", "a.zip", "--sha256"], r"`--sha256` must be a checksum, or `none`, got none"),
        (["--url", "a.zip", "--overwrite", "perhaps"], r"`--overwrite` must be true or false, got 'perhaps'"),
    ],
)
def test_flags_without_a_value(flags, message):
    with pytest.raises(TypeError, match=message):
        run(*flags)
