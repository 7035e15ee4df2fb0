import io
import os

import pytest
import torch

from bertswin_ext.programs.exported import read_exported, write_exported
from tests.unit.programs import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written():
    return write_exported(tiny.network(), tiny.images(2), '{"a": 1}')


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_there_and_back(written, batch_size):
    network, text = read_exported(written, CPU)
    image = tiny.images(batch_size)
    torch.testing.assert_close(network(image), tiny.network()(image), rtol=0, atol=1e-5)
    assert text == '{"a": 1}'


def test_torch_reads_it_alone(written):
    network = torch.export.load(io.BytesIO(written)).module()
    torch.testing.assert_close(network(tiny.images(1)), tiny.network()(tiny.images(1)), rtol=0, atol=1e-5)


def test_the_same_network_gives_the_same_bytes(written):
    assert write_exported(tiny.network(), tiny.images(2), '{"a": 1}') == written


def test_no_file_names_of_this_machine(written):
    assert os.path.dirname(torch.__file__).encode() not in written
    assert os.path.dirname(__file__).encode() not in written


def test_the_mode_cannot_be_switched(written):
    network, _ = read_exported(written, CPU)
    assert not network.train().training
    assert not network.eval().training


def test_another_device(written):
    network, _ = read_exported(written, torch.device("meta"))
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}
    assert network(tiny.images(1).to("meta")).device.type == "meta"


def test_no_record():
    buffer = io.BytesIO()
    program = torch.export.load(io.BytesIO(write_exported(tiny.network(), tiny.images(2), "{}")))
    program._example_inputs = None
    torch.export.save(program, buffer)
    assert read_exported(buffer.getvalue(), CPU)[1] is None


def test_a_torn_file(written):
    with pytest.raises(ValueError, match="no archive of torch, or torn"):
        read_exported(written[: len(written) // 2], CPU)
