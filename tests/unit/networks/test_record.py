from dataclasses import replace

import pytest
import torch

from bertswin_ext.networks import bertswin_tiny
from bertswin_ext.networks.lora import add_lora, merge_lora
from bertswin_ext.networks.record import AdaptationRecord, plain_size, read_record, save_network

NAMES = ["background", "mandible", "skull"]


def plain_record(**changes):
    return AdaptationRecord.of(bertswin_tiny(), 0.4, labels=NAMES).to_plain() | changes


def test_what_a_network_records():
    record = AdaptationRecord.of(bertswin_tiny(num_layers=2), 0.4)
    assert (record.method, record.axes, record.spacing_mm, record.labels) == ("BertsWinMAE", "RAS", (0.4,) * 3, None)
    assert record.arguments["num_layers"] == 2
    assert (record.min_hu, record.max_hu, record.mean_hu, record.std_hu) == (-1011.0, 1992.0, -21.14, 578.02)


def test_networks_that_keep_no_arguments_are_recorded_without():
    assert AdaptationRecord.of(torch.nn.Linear(2, 2), [0.2, 0.2, 0.5]).arguments == {}


def test_plain_values_there_and_back():
    record = AdaptationRecord.of(bertswin_tiny(), [0.2, 0.2, 0.5], labels=NAMES)
    plain = record.to_plain()
    assert plain["spacing_mm"] == [0.2, 0.2, 0.5]
    assert plain["labels"] == NAMES
    assert AdaptationRecord.from_plain(plain, "model.pt") == record


def test_a_record_without_a_method_is_that_of_the_first_network():
    plain = plain_record()
    del plain["method"], plain["labels"]
    record = AdaptationRecord.from_plain(plain, "encoder.pt")
    assert (record.method, record.labels) == ("BertsWinMAE", None)


def test_every_difference_of_the_input_is_said():
    learnt = AdaptationRecord("ViTMAE", {"hidden_size": 1}, "RAS", (0.2, 0.2, 0.2))
    other = replace(learnt, method="ViTSegmenter", arguments={}, spacing_mm=(0.2, 0.2, 0.5), axes="LPS", std_hu=500.0)
    assert learnt.differences(other) == [
        "axes: the encoder learnt on RAS, the configuration has LPS",
        "spacing_mm: the encoder learnt at 0.2 mm, the configuration has 0.2 x 0.2 x 0.5 mm",
        "std_hu: the encoder learnt with 578.02 HU, the configuration has 500 HU",
    ]
    assert learnt.differences(replace(learnt, method="ViTSegmenter", spacing_mm=(0.2, 0.2, 0.2000001))) == []


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([1], r"record of model\.pt must be a dictionary, found list\. It was not written by save_encoder"),
        ({"arguments": {}, "axes": "RAS"}, r"record of model\.pt lacks spacing_mm, min_hu, max_hu, mean_hu, std_hu\."),
        (plain_record(mean_hu="warm"), r"record of model\.pt has a wrong mean_hu\."),
        (plain_record(arguments=[768]), r"record of model\.pt has a wrong arguments\."),
        (plain_record(spacing_mm=[0.2, 0.2]), r"`spacing_mm` in the record of model\.pt must be one or three positive"),
    ],
)
def test_records_that_are_none(plain, message):
    with pytest.raises(ValueError, match=message):
        AdaptationRecord.from_plain(plain, "model.pt")


@pytest.mark.parametrize("spacing_mm", [0, -0.2, float("nan"), True, "0.2", [0.2, 0.2], [0.2, 0.2, 0]])
def test_spacings_that_are_none(spacing_mm):
    with pytest.raises(ValueError, match=r"`spacing_mm` must be one or three positive numbers of millimetres, got"):
        AdaptationRecord.of(bertswin_tiny(), spacing_mm)


def test_a_saved_network_loads_without_running_code(tmp_path):
    network = bertswin_tiny()
    record = AdaptationRecord.of(network, 0.4, labels=NAMES)
    save_network(network, tmp_path / "new" / "model.pt", record)
    content = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert set(content) == {"model", "record"}
    assert all(torch.equal(content["model"][key], value) for key, value in network.state_dict().items())
    assert read_record(tmp_path / "new" / "model.pt") == record


def test_adapters_are_folded_in_when_a_network_is_saved(tmp_path):
    network = add_lora(bertswin_tiny())
    torch.nn.init.normal_(network.encoder.blocks[0].attn.qkv.parametrizations.weight[0].up)
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 0.4))
    saved = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    merged = merge_lora(network).state_dict()
    assert set(saved) == set(bertswin_tiny().state_dict())
    assert all(torch.equal(saved[key], merged[key]) for key in saved)


def test_a_file_without_a_record(tmp_path):
    torch.save({"model": {}}, tmp_path / "model.pt")
    with pytest.raises(
        ValueError, match=r"model\.pt has no `record`\. It was not written by save_encoder or save_network"
    ):
        read_record(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("value", "plain"), [([7, 7, 7], 7), ((7, 7, 5), (7, 7, 5)), ([7, 7, 5], (7, 7, 5)), ("unetr", "unetr"), (0.5, 0.5)]
)
def test_a_size_as_it_is_compared(value, plain):
    assert plain_size(value) == plain


def test_a_file_does_not_depend_on_its_name_or_on_the_process(tmp_path, monkeypatch):
    network = torch.nn.Linear(2, 2)
    files = []
    for number in (1, 2):
        monkeypatch.setattr("os.getpid", lambda number=number: number)
        save_network(network, tmp_path / f"{number}.pt", AdaptationRecord.of(network, 0.4))
        files.append((tmp_path / f"{number}.pt").read_bytes())
    assert files[0] == files[1]
