import io
import os
import warnings

import pytest
import torch
from torch import nn

from bertswin_ext.programs.torchscript import read_torchscript, write_torchscript
from tests.unit.programs import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written():
    return write_torchscript(tiny.network(), tiny.images(2), '{"a": 1}')


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_there_and_back(written, batch_size):
    network, text = read_torchscript(written, CPU)
    image = tiny.images(batch_size)
    assert torch.equal(network(image), tiny.network()(image))
    assert text == '{"a": 1}'
    assert not network.training


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_torchscript(write_torchscript(tiny.network(), tiny.images(2), "{}"), CPU)


def test_torch_reads_it_alone(written):
    network = torch.jit.load(io.BytesIO(written))
    assert torch.equal(network(tiny.images(1)), tiny.network()(tiny.images(1)))


def test_the_same_network_gives_the_same_bytes(written):
    torch.jit.trace(nn.Sequential(nn.Conv3d(1, 1, 1), nn.GELU()), tiny.images(1))
    assert write_torchscript(tiny.network(), tiny.images(2), '{"a": 1}') == written


def test_no_file_names_of_this_machine(written):
    assert os.path.dirname(torch.__file__).encode() not in written
    assert os.path.dirname(__file__).encode() not in written
    assert not [name for name in tiny.contents(written) if name.endswith(".debug_pkl")]


def test_no_record():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(tiny.network(), tiny.images(1)), buffer)
    assert read_torchscript(buffer.getvalue(), CPU)[1] is None


class MakesTensors(nn.Module):
    def forward(self, x):
        return x + torch.arange(x.shape[4], device=x.device)


def test_tensors_made_on_the_way_are_made_on_the_device():
    network, _ = read_torchscript(write_torchscript(MakesTensors().eval(), tiny.images(2), "{}"), torch.device("meta"))
    # two devices in one sum would be an error
    assert network(tiny.images(1).to("meta")).device.type == "meta"


def test_an_archive_whose_pickle_runs_code(written, tmp_path):
    hostile = io.BytesIO(tiny.pickled(tiny.Mark(tmp_path / "mark")))
    pickle = tiny.contents(hostile.getvalue())["data.pkl"]
    for name in ("data.pkl", "constants.pkl"):
        data = tiny.archive(tiny.contents(written) | {name: pickle})
        with pytest.raises(RuntimeError):
            read_torchscript(data, CPU)
    assert list(tmp_path.iterdir()) == []


class Writes(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        torch.save(x, self.name)
        return x


class WritesWhileRead(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    @torch.jit.export
    def __getstate__(self):
        return (self.name, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.name, self.training = state

    def forward(self, x):
        return x


class Prints(nn.Module):
    def forward(self, x):
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return x


@pytest.mark.parametrize(
    ("network", "found"), [(Writes, "save"), (WritesWhileRead, "__setstate__"), (lambda _: Prints(), "ops")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_no_network_needs(network, found, tmp_path):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network(str(tmp_path / "mark"))), buffer)
    with pytest.raises(ValueError, match=f"uses '{found}', which is no operation of a network"):
        read_torchscript(buffer.getvalue(), CPU)
    assert list(tmp_path.iterdir()) == []
