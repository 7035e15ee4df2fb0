import os
import sys

import pytest
import torch

from bertswin_ext.programs.onnx_graph import read_onnx, write_onnx
from tests.unit.programs import tiny

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written():
    return write_onnx(tiny.network(), tiny.images(2), '{"a": 1}')


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_there_and_back(written, batch_size):
    network, text = read_onnx(written, CPU)
    image = tiny.images(batch_size)
    torch.testing.assert_close(network(image), tiny.network()(image), rtol=0, atol=1e-5)
    assert text == '{"a": 1}'


def test_one_input_and_one_output_with_any_batch(written):
    graph = onnx.load_model_from_string(written).graph
    (given,), (made,) = graph.input, graph.output
    assert (given.name, made.name) == ("image", "pred")
    for value, channels in ((given, 1), (made, 3)):
        batch, *rest = value.type.tensor_type.shape.dim
        assert batch.dim_param
        assert [axis.dim_value for axis in rest] == [channels, *tiny.SIZE]


def test_the_same_network_gives_the_same_bytes(written):
    assert write_onnx(tiny.network(), tiny.images(2), '{"a": 1}') == written


def test_no_file_names_of_this_machine(written):
    assert os.path.dirname(torch.__file__).encode() not in written
    assert os.path.dirname(__file__).encode() not in written


def test_a_device_that_onnxruntime_has_not(written):
    with pytest.raises(ValueError, match=r"cannot run it on meta, only on .*CPUExecutionProvider"):
        read_onnx(written, torch.device("meta"))


def test_weights_in_other_files(written):
    model = onnx.load_model_from_string(written)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secrets")
    with pytest.raises(ValueError, match="keeps weights in other files"):
        read_onnx(model.SerializeToString(), CPU)


def test_no_record(written):
    model = onnx.load_model_from_string(written)
    del model.metadata_props[:]
    assert read_onnx(model.SerializeToString(), CPU)[1] is None


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(written, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'need {package} .*pip install "bertswin-ext\[onnx\]"'):
        read_onnx(written, CPU)


def test_writing_needs_onnxscript(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="need onnxscript"):
        write_onnx(tiny.network(), tiny.images(2), "{}")
