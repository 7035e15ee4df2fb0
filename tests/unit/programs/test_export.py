import copy

import pytest
import torch
from monai.networks.nets import SegResNet
from torch import nn

from bertswin_ext.networks import AdaptationRecord, BertsWinSegmenter, ViTSegmenter, add_lora
from bertswin_ext.programs.agreement import ct_like
from bertswin_ext.programs.export import export_program, export_programs
from bertswin_ext.programs.program import load_program
from tests.unit.programs import tiny

SMALL = {"img_size": [8, 12, 16], "patch_size": 4, "hidden_size": 12, "num_layers": 2, "num_heads": 2}
SWIN = SMALL | {"window_size": 2, "stem_channels": 4, "decoder_channels": 2}
NETWORKS = {
    "unetr": lambda: BertsWinSegmenter(**SWIN),
    "linear": lambda: BertsWinSegmenter(**SWIN, stem="overlapping", decoder="linear"),
    "two_layer": lambda: BertsWinSegmenter(**SWIN, decoder="two_layer"),
    "padded": lambda: BertsWinSegmenter(**SWIN | {"img_size": [12, 12, 20]}),
    "lora": lambda: trained_lora(BertsWinSegmenter(**SWIN)),
    "vit": lambda: ViTSegmenter(**SMALL, stem_channels=4, decoder_channels=2),
    "vit_linear": lambda: ViTSegmenter(**SMALL, decoder="linear"),
    "segresnet": lambda: SegResNet(init_filters=8, out_channels=3, blocks_down=(1, 1), blocks_up=(1,)),
}


def trained_lora(network):
    add_lora(network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(".up"):
                parameter.normal_(std=0.1)
    return network


def built(name):
    torch.manual_seed(0)
    network = NETWORKS[name]()
    return network, AdaptationRecord.of(network, 0.8), None if hasattr(network, "arguments") else (16, 8, 24)


def agree(name, file):
    """Export, and compare with batches that the export has not seen."""
    network, record, img_size = built(name)
    before = copy.deepcopy(network.state_dict())
    program = export_program(network, record, file, img_size=img_size)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert load_program(file).record == record
    exact = copy.deepcopy(network).eval().double()
    network.eval()
    with torch.no_grad():
        for batch_size in (1, 5):
            image = ct_like((batch_size, 1, *program.img_size), seed=99)
            logits = exact(image.double())
            # onnxruntime adds up in another order: it may be as far from exact numbers as the network itself
            rounding = (network(image) - logits).abs().max().item() if file.suffix == ".onnx" else 0.0
            reference = logits if file.suffix == ".onnx" else network(image).double()
            torch.testing.assert_close(program(image).double(), reference, rtol=0, atol=max(1e-4, 2 * rounding))


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript(name, tmp_path):
    agree(name, tmp_path / "model.ts")


def test_exported(tmp_path):
    agree("linear", tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_the_slow_formats(name, suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
        pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    agree(name, tmp_path / f"model{suffix}")


def test_a_network_without_arguments_needs_a_size(tmp_path):
    network, record, _ = built("segresnet")
    with pytest.raises(ValueError, match=r"record of a SegResNet does not say which size.*`img_size`"):
        export_program(network, record, tmp_path / "model.ts")
    assert export_program(network, record, tmp_path / "model.ts", img_size=8).img_size == (8, 8, 8)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(("network", "found"), [(Pair(), "tuple"), (nn.MaxPool3d(2), r"\(1, 1, 4, 5, 6\)")])
def test_what_is_no_segmentation_network(network, found, tmp_path):
    with pytest.raises(ValueError, match=f"must give logits .* of the input's size, got {found}"):
        export_program(network, tiny.record(), tmp_path / "model.ts", img_size=tiny.SIZE)
    assert list(tmp_path.iterdir()) == []


class Branches(nn.Module):
    """Gives another sign for batches of the size that it is traced with."""

    def forward(self, x):
        return torch.cat([x, -x], 1) if len(x) == 2 else torch.cat([-x, x], 1)


def test_a_program_that_says_something_else_is_not_left(tmp_path):
    match = r"does not compute what its network does: for a batch of 1 the logits differ .* labels are the same"
    with pytest.raises(ValueError, match=match):
        export_program(Branches(), tiny.record(), tmp_path / "model.ts", img_size=tiny.SIZE)
    assert list(tmp_path.iterdir()) == []


def test_an_old_program_stays_when_the_new_one_fails(tmp_path):
    old = export_program(tiny.network(), tiny.record(), tmp_path / "model.ts", img_size=tiny.SIZE)
    with pytest.raises(ValueError, match="does not compute"):
        export_program(Branches(), tiny.record(), tmp_path / "model.ts", img_size=tiny.SIZE)
    assert load_program(tmp_path / "model.ts").sha256 == old.sha256


def test_a_tolerance_of_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"at most -1 is allowed"):
        export_program(tiny.network(), tiny.record(), tmp_path / "model.ts", atol=-1, img_size=tiny.SIZE)


@pytest.mark.parametrize("suffix", [".ts", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_the_same_network_gives_the_same_bytes(suffix, tmp_path):
    network, record, _ = built("unetr")
    one = export_program(network, record, tmp_path / f"one{suffix}")
    other = export_program(network, record, tmp_path / f"other{suffix}")
    assert one.sha256 == other.sha256


def test_several_formats(tmp_path):
    programs = export_programs(tiny.network(), tiny.record(img_size=tiny.SIZE), tmp_path / "new")
    assert [program.path.name for program in programs] == ["model.ts", "model.pt2"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model.pt2", "model.ts"]


@pytest.mark.parametrize("formats", [[], ["pt"], ["ts", "tflite"]])
def test_unknown_formats(formats, tmp_path):
    with pytest.raises(ValueError, match=r"`formats` must name some of ts, pt2, onnx, got"):
        export_programs(tiny.network(), tiny.record(), tmp_path, formats, tiny.SIZE)
    assert list(tmp_path.iterdir()) == []
