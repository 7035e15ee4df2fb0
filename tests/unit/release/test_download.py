"""Our download: what is refused leaves nothing behind."""

import hashlib
import shutil

import pytest

from bertswin_ext.release.archives import write_zip
from bertswin_ext.release.checksums import write_checksums
from bertswin_ext.release.download import download_bundle
from tests.unit.release.archives_to_refuse import canary_pickle, write_archive
from tests.unit.release.loopback import served

NAME = "bertswin_inference"


@pytest.fixture(scope="module")
def bundle(repository, tmp_path_factory):
    return shutil.copytree(repository / "bundles" / "inference", tmp_path_factory.mktemp("bundle") / NAME)


@pytest.fixture
def release(bundle, tmp_path):
    """A folder with the archive and its checksum, which a test may change."""
    folder = tmp_path / "release"
    folder.mkdir()
    write_zip(bundle, folder / f"{NAME}_v0.3.1.zip")
    write_checksums(folder, [f"{NAME}_v0.3.1.zip"])
    return folder


@pytest.fixture
def here(tmp_path):
    """Where bundles are, with something in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    return folder


def archive_of(release):
    return release / f"{NAME}_v0.3.1.zip"


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_from_an_address(release, bundle, here):
    with served(release) as address:
        folder = download_bundle(f"{address}/{NAME}_v0.3.1.zip", here)
    assert folder == here / NAME
    assert contents(folder) == contents(bundle)
    assert sorted(path.name for path in here.iterdir()) == [NAME, "mine.txt"]


def test_a_bundle_from_a_file_into_a_new_folder(release, bundle, tmp_path):
    sha256 = hashlib.sha256(archive_of(release).read_bytes()).hexdigest()
    (release / "SHA256SUMS").unlink()
    folder = download_bundle(str(archive_of(release)), tmp_path / "new" / "deep", sha256)
    assert contents(folder) == contents(bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "release"]


def truncated(archive, _):
    archive.write_bytes(archive.read_bytes()[:-100])


def damaged(archive, _):
    content = bytearray(archive.read_bytes())
    content[content.index(b'{"version"') + 3] ^= 1
    archive.write_bytes(content)


def climbing(archive, _):
    write_archive(archive, [(f"{NAME}/configs/metadata.json", "{}"), ("../climbed.txt", "x")])


def running_code(archive, canary):
    pickled = canary_pickle(canary, "torch")
    write_archive(archive, [(f"{NAME}/configs/metadata.json", "{}"), (f"{NAME}/models/model.pt", pickled)])


def program_running_code(archive, canary):
    pickled = canary_pickle(canary, "pickle")
    write_archive(archive, [(f"{NAME}/configs/metadata.json", "{}"), (f"{NAME}/models/model.ts", pickled)])


def no_bundle(archive, _):
    write_archive(archive, [(f"{NAME}/LICENSE", "x")])


@pytest.mark.parametrize("new_folder", [False, True])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, r"is truncated or no zip"),
        (damaged, r"v0.3.1.zip is truncated or damaged: Bad CRC-32.*metadata.json"),
        (climbing, r"'../climbed.txt' must not climb out of its folder"),
        (running_code, r"models/model.pt is refused: Checkpoint .*cannot be read"),
        (program_running_code, r"models/model.ts is refused: Program .*cannot be read"),
        (no_bundle, r"must hold a bundle, found no bertswin_inference/configs/metadata.json"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(release, here, tmp_path, spoil, message, new_folder):
    archive = archive_of(release)
    spoil(archive, tmp_path / "canary")
    write_checksums(release, [archive.name])
    before = listing(tmp_path)
    with served(release) as address, pytest.raises(ValueError, match=message):
        download_bundle(f"{address}/{archive.name}", here / "new" if new_folder else here)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("sha256", ["0" * 64, None])
def test_a_wrong_checksum_leaves_nothing_behind(release, here, tmp_path, sha256):
    (release / "SHA256SUMS").write_text(f"{'0' * 64}  {archive_of(release).name}\n")
    before = listing(tmp_path)
    with served(release) as address, pytest.raises(ValueError, match=r"does not have the checksum 0000"):
        download_bundle(f"{address}/{archive_of(release).name}", here, sha256)
    assert listing(tmp_path) == before


def test_no_checksum_leaves_nothing_behind(release, here, tmp_path):
    (release / "SHA256SUMS").unlink()
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"or `--sha256 none` to do without"):
        download_bundle(str(archive_of(release)), here)
    assert listing(tmp_path) == before
    assert download_bundle(str(archive_of(release)), here, "none").is_dir()


def test_a_bundle_that_is_there_stays(release, here, tmp_path):
    (here / NAME).mkdir()
    (here / NAME / "trained.pt").write_text("mine")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"bertswin_inference exists. Give another `--bundle_dir`"):
        download_bundle(str(archive_of(release)), here)
    assert listing(tmp_path) == before


def test_a_bundle_that_is_replaced(release, bundle, here):
    (here / NAME).mkdir()
    (here / NAME / "old.txt").write_text("old")
    folder = download_bundle(str(archive_of(release)), here, overwrite=True)
    assert contents(folder) == contents(bundle)
    assert sorted(path.name for path in here.iterdir()) == [NAME, "mine.txt"]


def test_what_is_refused_replaces_nothing(release, here, tmp_path):
    (here / NAME).mkdir()
    (here / NAME / "old.txt").write_text("old")
    running_code(archive_of(release), tmp_path / "canary")
    before = listing(tmp_path)
    with pytest.raises(ValueError, match=r"models/model.pt is refused"):
        download_bundle(str(archive_of(release)), here, "none", overwrite=True)
    assert listing(tmp_path) == before


def test_a_folder_that_is_a_file(release, here):
    with pytest.raises(ValueError, match=r"`bundle_dir` .*mine.txt must be a folder, found the file"):
        download_bundle(str(archive_of(release)), here / "mine.txt")
