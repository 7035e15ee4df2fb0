"""The bundle's weights are replaced, never lost."""

import logging

import pytest

from bertswin_ext.runs import publish_model


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "model.pt"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_first_weights(run, tmp_path):
    run.write_bytes(b"new")
    publish_model(run, tmp_path / "models" / "model.pt")
    assert content(tmp_path / "models") == {"model.pt": b"new"}
    assert run.read_bytes() == b"new"


def test_earlier_weights_are_kept(run, tmp_path, caplog):
    models = tmp_path / "models"
    with caplog.at_level(logging.INFO):
        for weights in (b"first", b"second", b"third"):
            run.write_bytes(weights)
            publish_model(run, models / "model.pt")
    assert content(models) == {"model.pt": b"third", "model_before_1.pt": b"first", "model_before_2.pt": b"second"}
    assert f"the weights that were in {models}/model.pt are kept as model_before_2.pt" in caplog.text


def test_the_same_weights_are_not_kept_twice(run, tmp_path):
    run.write_bytes(b"same")
    for _ in range(2):
        publish_model(run, tmp_path / "models" / "model.pt")
    assert list(content(tmp_path / "models")) == ["model.pt"]


@pytest.mark.parametrize("nothing", ["", None])
def test_no_target(run, tmp_path, nothing):
    publish_model(run, nothing)
    assert list(tmp_path.iterdir()) == [run.parent]


def test_no_weights(run, tmp_path):
    with pytest.raises(ValueError, match=r"model.pt does not exist: the run has saved no weights"):
        publish_model(run, tmp_path / "model.pt")
