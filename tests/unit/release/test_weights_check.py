"""Weights are read without running code from them."""

import shutil

import pytest

from bertswin_ext.release.weights_check import check_weights
from tests.unit.release.archives_to_refuse import canary_pickle


@pytest.fixture
def bundle(repository, tmp_path):
    return shutil.copytree(repository / "bundles" / "inference", tmp_path / "toy")


def test_good_weights(bundle):
    assert check_weights(bundle) == ["models/model.ts", "models/pretrained/model.pt"]


@pytest.mark.parametrize("kind", ["pickle", "torch"])
@pytest.mark.parametrize(
    "name",
    [
        "models/model.pt",
        "models/model.ts",
        "docs/deep/x.pt",
        "models/model.pkl",
        "a.PTH",
        "models/model",
        "models/model.pt.bak",
    ],
)
def test_a_pickle_that_runs_code(bundle, tmp_path, kind, name):
    path = bundle / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(canary_pickle(tmp_path / "canary", kind))
    with pytest.raises(ValueError, match=r"1 fault in the files of toy") as caught:
        check_weights(bundle)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_sing(tmp_path):
    import io

    import torch

    torch.load(io.BytesIO(canary_pickle(tmp_path / "canary", "torch")), weights_only=False)
    assert (tmp_path / "canary").exists()


def test_all_faults_at_once(bundle):
    content = (bundle / "models" / "model.ts").read_bytes()
    (bundle / "models" / "model.ts").write_bytes(content[: len(content) // 2])
    (bundle / "models" / "pretrained" / "model.pt").write_bytes(b"")
    (bundle / "helper.so").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3 faults in the files of toy") as caught:
        check_weights(bundle)
    for words in ("models/model.ts is refused", "models/pretrained/model.pt is refused", "helper.so is of a kind"):
        assert words in str(caught.value)
