"""The command that imports the authors' weights."""

import fire
import pytest
import torch

from bertswin_ext.commands.import_weights import import_weights
from bertswin_ext.networks.record import read_record
from tests.golden import reference
from tests.unit.release.small_repository import write


@pytest.fixture
def checkpoint(tmp_path):
    description, _ = reference.load("model_a_loose")
    weights = {name: torch.from_numpy(value) for name, value in reference.upstream_state_dict(description).items()}
    torch.save({"model_state_dict": weights}, tmp_path / "bertswin.pth")
    return tmp_path / "bertswin.pth"


@pytest.fixture
def bundles(tmp_path, monkeypatch):
    for name in ("pretrain", "inference", "tmj_segmentation"):
        write(tmp_path / "bundles" / name / "configs" / "metadata.json", "{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bundles"


@pytest.mark.parametrize("command", ["import_weights", "import-weights"])
@pytest.mark.parametrize(("name", "place"), [("pretrain", "model.pt"), ("inference", "pretrained/model.pt")])
def test_where_the_weights_are_and_what_matched(checkpoint, bundles, capsys, command, name, place):
    arguments = [command, str(checkpoint), "--bundle", name, "--spacing_mm", "0.25"]
    fire.Fire({"import_weights": import_weights}, command=arguments)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"bundles/{name}/models/{place}"
    assert second.endswith("tensors matched")
    assert read_record(bundles / name / "models" / place).spacing_mm == (0.25, 0.25, 0.25)


def test_a_bundle_that_reads_none(checkpoint, bundles):
    with pytest.raises(ValueError, match=r"`bundle` must be pretrain or inference, got tmj_segmentation"):
        fire.Fire(
            {"import_weights": import_weights},
            command=["import_weights", str(checkpoint), "--bundle", "tmj_segmentation"],
        )
