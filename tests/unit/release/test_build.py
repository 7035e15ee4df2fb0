"""A release is complete, and the same byte for byte wherever it is built."""

import hashlib
import json
import os
import subprocess
import time
import zipfile

import pytest
import torch

from bertswin_ext.release.build import build_release
from bertswin_ext.release.commit import Commit
from tests.unit.release.small_repository import SIZES, commit, git, write

NAMES = ["bertswin_inference_v0.3.1", "bertswin_pretrain_v0.3.1", "bertswin_tmj_segmentation_v0.3.1"]


def released(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def release(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "dist"
    build_release(Commit.head(repository), folder, base_url="https://host/v1")
    return folder


def clone(repository, folder):
    git(repository, "clone", "--quiet", str(repository), str(folder))
    return folder


def test_everything_is_there(release):
    assert sorted(released(release)) == [
        "SHA256SUMS",
        *(f"{name}.zip" for name in NAMES),
        "models/model_info.json",
        "toy_ext-0.3.1-py3-none-any.whl",
        "toy_ext-0.3.1.tar.gz",
    ]
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=release, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.count(b": OK") == 5


def test_another_clone_another_day_and_another_umask_give_the_same(release, repository, tmp_path):
    other = clone(repository, tmp_path / "elsewhere" / "deep")
    for path in other.rglob("*"):
        if ".git" not in path.relative_to(other).parts and path.is_file():
            os.utime(path, (time.time() + 86400,) * 2)
            path.chmod(0o600)
    before = os.umask(0o077)
    try:
        build_release(Commit.head(other), tmp_path / "again", base_url="https://host/v1/")
    finally:
        os.umask(before)
    assert released(tmp_path / "again") == released(release)


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_has_one_top_directory_and_the_layout(release, name):
    with zipfile.ZipFile(release / f"{name}.zip") as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        modes = {member.external_attr >> 16 for member in archive.infolist()}
    top = name.partition("_v")[0]
    assert {n.split("/")[0] for n in names} == {top}
    stage = top.removeprefix("bertswin_")
    for wanted in ("LICENSE", "configs/metadata.json", "docs/README.md", "large_files.json", f"here_{stage}.py"):
        assert f"{top}/{wanted}" in names
    assert names == sorted(names)
    assert modes == {0o100644}
    models = {n.removeprefix(f"{top}/models/") for n in names if "/models/" in n}
    assert models == ({"model.ts", "pretrained/model.pt"} if stage == "inference" else {"model.pt"})


def test_programs_have_the_sizes_of_their_weights_and_the_recipe_is_kept(release):
    with zipfile.ZipFile(release / f"{NAMES[1]}.zip") as archive:
        train, full = (json.loads(archive.read(f"bertswin_pretrain/configs/{n}.json")) for n in ("train", "full_size"))
    assert {name: train[name] for name in SIZES} == SIZES
    assert train["spacing_mm"] == 0.8
    assert (full["img_size"], full["hidden_size"], full["spacing_mm"]) == (224, 768, 0.2)


def test_what_monai_reads_for_the_latest_version(release):
    info = json.loads((release / "models" / "model_info.json").read_text())
    assert sorted(info) == NAMES
    for name, entry in info.items():
        assert entry["source"] == f"https://host/v1/{name}.zip"
        assert entry["checksum"] == hashlib.sha256((release / f"{name}.zip").read_bytes()).hexdigest()


def test_committing_the_list_changes_no_archive(release, repository, tmp_path):
    """Else its checksums could never be right in the commit that is tagged."""
    other = clone(repository, tmp_path / "clone")
    earlier = {"bertswin_old_v0.1.0": {"checksum": "0", "source": "old.zip"}}
    listed = json.loads((release / "models" / "model_info.json").read_text())
    write(other / "models" / "model_info.json", json.dumps(earlier | listed))
    commit(other, time=1_800_000_000)
    build_release(Commit.head(other), tmp_path / "dist", base_url="https://host/v1")
    again = released(tmp_path / "dist")
    assert {n: again[n] for n in again if n.endswith(".zip")} == {
        n: content for n, content in released(release).items() if n.endswith(".zip")
    }
    assert json.loads(again["models/model_info.json"]) == earlier | listed


def test_weights_beside_the_archive(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("bertswin_ext.release.build.build_distributions", lambda *_: [])
    build_release(Commit.head(repository), tmp_path / "dist", ["inference"], "beside", "http://host/files")
    name = NAMES[0]
    weights = [f"{name}_model.ts", f"{name}_pretrained_model.pt"]
    assert sorted(p.name for p in (tmp_path / "dist").iterdir() if p.is_file()) == [
        "SHA256SUMS",
        f"{name}.zip",
        *weights,
    ]
    with zipfile.ZipFile(tmp_path / "dist" / f"{name}.zip") as archive:
        assert not [n for n in archive.namelist() if "/models/" in n]
        entries = json.loads(archive.read("bertswin_inference/large_files.json"))["large_files"]
    assert [(e["path"], e["url"]) for e in entries] == [
        ("models/model.ts", f"http://host/files/{weights[0]}"),
        ("models/pretrained/model.pt", f"http://host/files/{weights[1]}"),
    ]
    assert [e["hash_val"] for e in entries] == [
        hashlib.sha256((tmp_path / "dist" / w).read_bytes()).hexdigest() for w in weights
    ]
    torch.load(tmp_path / "dist" / weights[1], weights_only=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundles": ["pretrain", "pretrain"]}, r"`bundles` must name each bundle once, got pretrain, pretrain"),
        ({"bundles": []}, r"`bundles` must name each bundle once, got none"),
        ({"bundles": ["gone"]}, r"`bundles` must be folders in bundles, found no gone"),
        ({"weights": "outside"}, r"`weights` must be 'inside' or 'beside', got 'outside'"),
        ({"weights": "beside"}, r"`base_url` must say where weights beside the archives will lie"),
    ],
)
def test_wrong_arguments(repository, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_release(Commit.head(repository), tmp_path / "dist", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_taken(repository, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match=r"`output` .* must be a new or empty folder"):
        build_release(Commit.head(repository), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
