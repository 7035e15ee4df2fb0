"""The list that MONAI reads."""

import json

import pytest
from monai.bundle import scripts

from bertswin_ext.release.model_info import bundle_version, model_info, published_name


@pytest.mark.parametrize("stage", ["bert_v2", "tmj.segmentation"])
def test_names_that_monai_would_cut(stage):
    with pytest.raises(ValueError, match="must not have `_v` or a dot in its name"):
        published_name(stage)


def bundle_of(folder, version):
    (folder / "configs").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": version}))
    return folder


def test_the_version_of_a_bundle(tmp_path):
    assert bundle_version(bundle_of(tmp_path, "0.9.1")) == "0.9.1"


@pytest.mark.parametrize("version", ["0.10.0", "1.0", "1.0.0rc1", None])
def test_versions_that_monai_would_sort_wrongly(tmp_path, version):
    with pytest.raises(ValueError, match=r"`version` in .*metadata.json must be three numbers below 10, got"):
        bundle_version(bundle_of(tmp_path, version))


def test_monai_finds_the_latest_version(tmp_path, monkeypatch):
    """Its own reader, with the list in place of the answer of GitHub."""
    pytest.importorskip("requests")
    archive = tmp_path / "bertswin_inference_v0.2.0.zip"
    archive.write_bytes(b"zip")
    earlier = {"bertswin_inference_v0.1.0": {"checksum": "0", "source": "https://host/old.zip"}}
    info = model_info(earlier, {"bertswin_inference_v0.2.0": archive}, "https://host/")
    asked = []

    class Answer:
        text = json.dumps(info)

        def raise_for_status(self):
            pass

    monkeypatch.setattr(scripts.requests, "get", lambda url, **_: asked.append(url) or Answer())
    found = scripts.get_bundle_versions("bertswin_inference", repo="owner/repo", tag="v0.2.0")
    assert found == {"latest_version": "0.2.0", "all_versions": ["0.1.0", "0.2.0"]}
    assert asked == ["https://raw.githubusercontent.com/owner/repo/v0.2.0/models/model_info.json"]
    entry = scripts.get_bundle_info("bertswin_inference", repo="owner/repo", tag="v0.2.0")
    assert entry["browser_download_url"] == "https://host/bertswin_inference_v0.2.0.zip"
