"""A release is downloaded with MONAI's own commands, from a server on this machine."""

import json
import sys
import zipfile
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import scripts

from bertswin_ext.release.build import build_release
from bertswin_ext.release.commit import Commit
from tests.bundles.conftest import run
from tests.unit.release.loopback import served
from tests.unit.release.small_repository import LABELS, VERSION, write_repository

pytestmark = pytest.mark.bundle

NAMES = ("bertswin_inference", "bertswin_pretrain", "bertswin_tmj_segmentation")


@pytest.fixture(scope="module")
def commit(tmp_path_factory):
    return Commit.head(write_repository(tmp_path_factory.mktemp("repository") / "toy"))


@pytest.fixture(scope="module")
def release(commit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "dist"
    build_release(commit, folder)
    return folder


@pytest.fixture(scope="module")
def address(release):
    with served(release) as found:
        yield found


@pytest.fixture(scope="module")
def downloaded(address, tmp_path_factory):
    """All bundles, by the command that the documentation gives."""
    folder = tmp_path_factory.mktemp("downloaded")
    for name in NAMES:
        command = [sys.executable, "-m", "monai.bundle", "download", "--name", name, "--bundle_dir", "."]
        run([*command, "--url", f"{address}/{name}_v{VERSION}.zip"], cwd=folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_command_with_an_address(release, downloaded, name):
    with zipfile.ZipFile(release / f"{name}_v{VERSION}.zip") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    folder = downloaded / name
    found = {f"{name}/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == members


@pytest.mark.parametrize(
    ("name", "workflow", "stage"),
    [
        ("bertswin_tmj_segmentation", "inference", "tmj_segmentation"),
        ("bertswin_tmj_segmentation", "train", "tmj_segmentation"),
        ("bertswin_pretrain", "train", "pretrain"),
    ],
)
@pytest.mark.parametrize("key", [None, "model"])
def test_monai_loads_the_network_with_its_weights(commit, downloaded, name, workflow, stage, key):
    network = monai.bundle.load(name, bundle_dir=str(downloaded), workflow_type=workflow, device="cpu", key_in_ckpt=key)
    published = torch.load(commit.repository / "bundles" / stage / "models" / "demo.pt", weights_only=True)["model"]
    found = network.state_dict()
    assert list(found) == list(published)
    assert all(torch.equal(found[name], value) for name, value in published.items())


def test_monai_loads_the_program(downloaded):
    program, _, files = monai.bundle.load(
        "bertswin_inference",
        bundle_dir=str(downloaded),
        load_ts_module=True,
        device="cpu",
        config_files=("record.json",),
    )
    assert program(torch.zeros(1, 1, 16, 16, 16)).shape == (1, len(LABELS), 16, 16, 16)
    assert json.loads(files["record.json"])


def test_the_segmentation_runs_where_it_was_downloaded(downloaded, phantom_dir, tmp_path):
    """No overlay, no file of the repository: the programs have the sizes of the weights."""
    config = downloaded / "bertswin_tmj_segmentation" / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    volume = min(Path(phantom_dir).parent.rglob("*image*.nii.gz"))
    run([*command, "--dataset_dir", str(volume), "--output_dir", str(tmp_path / "out")], cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 1


def test_the_weights_are_checked_where_they_are(downloaded, tmp_path):
    command = [sys.executable, "-m", "monai.bundle", "download_large_files"]
    result = run([*command, "--bundle_path", str(downloaded / "bertswin_inference")])
    assert "Verified 'model.ts'" in result.stdout + result.stderr


def test_weights_beside_the_archive_are_fetched(commit, tmp_path):
    (tmp_path / "served").mkdir()
    with served(tmp_path / "served") as address:
        build_release(commit, tmp_path / "served" / "dist", ["inference"], "beside", f"{address}/dist")
        command = [sys.executable, "-m", "monai.bundle", "download", "--name", NAMES[0], "--bundle_dir", "here"]
        run([*command, "--url", f"{address}/dist/{NAMES[0]}_v{VERSION}.zip"], cwd=tmp_path)
        folder = tmp_path / "here" / NAMES[0]
        assert not (folder / "models").exists()
        run([sys.executable, "-m", "monai.bundle", "download_large_files"], cwd=folder)
    source = commit.repository / "bundles" / "inference" / "models"
    found = {path.relative_to(folder / "models") for path in (folder / "models").rglob("*") if path.is_file()}
    assert found == {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    assert all((folder / "models" / name).read_bytes() == (source / name).read_bytes() for name in found)


@pytest.mark.parametrize("version", [VERSION, None])
def test_the_command_with_a_repository_on_github(release, address, tmp_path, monkeypatch, version):
    """MONAI's code but for the two hosts, whose answers the files of the release are."""
    asked = []
    releases, raw = "https://github.com/owner/repo/releases/download/v0.3.1/", "https://raw.githubusercontent.com/"

    def url_here(*place, tag_name, filename):
        asked.append(scripts_url(*place, tag_name=tag_name, filename=filename))
        return asked[-1].replace(releases, f"{address}/")

    def get_here(url, **options):
        asked.append(url)
        return get(url.replace(f"{raw}owner/repo/v0.3.1", address), **options)

    scripts_url = scripts._get_git_release_url
    monkeypatch.setattr(scripts, "_get_git_release_url", url_here)
    if version is None:
        get = pytest.importorskip("requests").get
        monkeypatch.setattr(scripts.requests, "get", get_here)
    name = "bertswin_tmj_segmentation"
    monai.bundle.download(
        name, version=version, source="github", repo="owner/repo/v0.3.1", bundle_dir=str(tmp_path), progress=False
    )
    assert (tmp_path / name / "models" / "model.pt").is_file()
    listed = [] if version else [f"{raw}owner/repo/v0.3.1/models/model_info.json"]
    assert asked == [*listed, f"{releases}{name}_v{VERSION}.zip"]
