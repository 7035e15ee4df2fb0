import importlib.util

import pytest
import torch

from bertswin_ext.programs.tensorrt import compile_tensorrt
from tests.unit.programs import tiny

LACKING = not torch.cuda.is_available() or importlib.util.find_spec("tensorrt") is None


@pytest.mark.skipif(not LACKING, reason="TensorRT is here")
def test_without_tensorrt_it_says_so_and_leaves_the_network_alone(tmp_path):
    network = tiny.network()
    forward = network.forward
    with pytest.raises(
        ValueError, match=r"TensorRT needs an NVIDIA GPU and the packages tensorrt, .*leave tensorrt.json out"
    ):
        compile_tensorrt(network, tmp_path / "model.pt")
    assert network.forward == forward


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "polygraphy" else object())
    with pytest.raises(ValueError, match=r"\(missing: polygraphy\)"):
        compile_tensorrt(tiny.network(), tmp_path / "model.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(ValueError, match="torch sees no NVIDIA GPU"):
        compile_tensorrt(tiny.network(), tmp_path / "model.pt")


@pytest.mark.gpu
@pytest.mark.skipif(LACKING, reason="needs a GPU and TensorRT")
def test_the_same_logits(tmp_path):
    network = tiny.network().cuda()
    image = tiny.images(1).cuda()
    with torch.no_grad():
        expected = network(image)
        found = compile_tensorrt(network, tmp_path / "model.pt", precision="fp32")(image)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=1e-2)
    assert (tmp_path / "model.pt.plan").is_file()
