"""A bundle as it is published."""

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser

from bertswin_ext.release.published_bundle import stage_bundle
from tests.unit.release.small_repository import LABELS, SIZES


def config(folder, name):
    return json.loads((folder / "configs" / name).read_text())


@pytest.fixture
def bundle(repository, tmp_path):
    """A bundle that a test may change."""
    return shutil.copytree(repository / "bundles" / "tmj_segmentation", tmp_path / "tmj_segmentation")


def test_a_bundle_with_demo_weights_is_packed(bundle, tmp_path):
    staged = stage_bundle(bundle, tmp_path / "bertswin_tmj_segmentation")
    assert [path.name for path in (staged / "models").iterdir()] == ["model.pt"]
    for program in ("train.json", "inference.json"):
        assert {name: config(staged, program)[name] for name in SIZES} == SIZES
    assert config(staged, "inference.json")["class_names"] == LABELS


def test_the_weights_are_where_every_reader_looks(bundle, tmp_path):
    path = stage_bundle(bundle, tmp_path / "one") / "models" / "model.pt"
    demo = torch.load(bundle / "models" / "demo.pt", weights_only=True)
    content = torch.load(path, weights_only=True)
    assert content["record"] == demo["record"]
    assert list(content["model"]) == list(demo["model"])
    for name, value in demo["model"].items():
        assert torch.equal(content["model"][name], value)
        # stored once
        assert content[name].data_ptr() == content["model"][name].data_ptr()
    again = stage_bundle(bundle, tmp_path / "other") / "models" / "model.pt"
    assert again.read_bytes() == path.read_bytes()


def test_the_overlay_brings_the_recipe_back(repository, tmp_path):
    bundle = repository / "bundles" / "pretrain"
    staged = stage_bundle(bundle, tmp_path / "bertswin_pretrain")
    parser = ConfigParser()
    parser.read_config([staged / "configs" / "train.json", staged / "configs" / "full_size.json"])
    merged, original = dict(parser.get()), config(bundle, "train.json")
    assert {name: merged[name] for name in original if name != "_desc_"} == {
        name: original[name] for name in original if name != "_desc_"
    }


def test_a_bundle_without_them_is_copied(repository, tmp_path):
    bundle = repository / "bundles" / "inference"
    staged = stage_bundle(bundle, tmp_path / "bertswin_inference")
    files = [path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert all((staged / name).read_bytes() == (bundle / name).read_bytes() for name in files)


def test_what_a_published_bundle_must_have(bundle, tmp_path):
    (bundle / "LICENSE").unlink()
    (bundle / "docs" / "README.md").unlink()
    (bundle / "here_tmj_segmentation.py").unlink()
    (bundle / "models" / "demo.pt").unlink()
    with pytest.raises(ValueError, match="4 faults in the bundle tmj_segmentation") as caught:
        stage_bundle(bundle, tmp_path / "out")
    for words in ("LICENSE is missing", "docs/README.md is missing", "one here_*.py", "no weights in models"):
        assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
