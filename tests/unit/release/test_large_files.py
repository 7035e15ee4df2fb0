"""The list of weights, read by MONAI."""

import json
import sys

import pytest
from monai.apps.utils import HashCheckError
from monai.bundle import download_large_files

from bertswin_ext.release.large_files import take_out_weights, write_large_files

FILES = {"model.ts": b"program", "locator/model.pt": b"weights"}


@pytest.fixture(autouse=True)
def without_yaml(monkeypatch):
    """MONAI does not install PyYAML."""
    monkeypatch.setitem(sys.modules, "yaml", None)


@pytest.fixture
def bundle(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "toy" / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "toy"


def test_monai_checks_weights_that_are_inside(bundle):
    write_large_files(bundle)
    download_large_files(str(bundle))
    (bundle / "models" / "model.ts").write_bytes(b"damaged")
    with pytest.raises(HashCheckError, match="hash check of existing file failed"):
        download_large_files(str(bundle))


def test_monai_fetches_weights_that_are_beside(bundle, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    write_large_files(bundle, "toy_v0.1.0", f"{beside.as_uri()}/")
    moved = take_out_weights(bundle, "toy_v0.1.0", beside)
    assert sorted(path.name for path in moved) == ["toy_v0.1.0_locator_model.pt", "toy_v0.1.0_model.ts"]
    assert not (bundle / "models").exists()
    download_large_files(str(bundle))
    assert {n: (bundle / "models" / n).read_bytes() for n in FILES} == FILES


def test_monai_refuses_other_weights(bundle, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    write_large_files(bundle, "toy_v0.1.0", f"{beside.as_uri()}/")
    for path in take_out_weights(bundle, "toy_v0.1.0", beside):
        path.write_bytes(b"other")
    with pytest.raises(HashCheckError):
        download_large_files(str(bundle))
    assert not list(bundle.glob("models/**/*.*"))


def test_every_entry_names_its_kind_of_checksum(bundle):
    entries = json.loads(write_large_files(bundle).read_text())["large_files"]
    assert [(entry["path"], entry["hash_type"]) for entry in entries] == [
        ("models/locator/model.pt", "sha256"),
        ("models/model.ts", "sha256"),
    ]
