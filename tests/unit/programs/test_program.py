import hashlib
import shutil

import pytest
import torch
from monai.data import MetaTensor

from bertswin_ext.inferers import sliding_window
from bertswin_ext.programs.exported import write_exported
from bertswin_ext.programs.program import load_program, program_suffix
from bertswin_ext.programs.torchscript import write_torchscript
from tests.unit.programs import tiny

WRITERS = {".ts": write_torchscript, ".pt2": write_exported}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for suffix, write in WRITERS.items():
        (folder / f"model{suffix}").write_bytes(write(tiny.network(), tiny.images(2), tiny.passport().to_text()))
    return {suffix: folder / f"model{suffix}" for suffix in WRITERS}


every_format = pytest.mark.parametrize("suffix", WRITERS)


@every_format
def test_a_program_knows_what_it_is(files, suffix):
    program = load_program(files[suffix])
    assert program.record == tiny.record()
    assert (program.in_channels, program.img_size) == (1, tiny.SIZE)
    assert program.path == files[suffix]
    assert program.sha256 == hashlib.sha256(files[suffix].read_bytes()).hexdigest()
    assert not program.training


@every_format
def test_logits(files, suffix):
    program, image = load_program(str(files[suffix])), tiny.images(3)
    torch.testing.assert_close(program(image), tiny.network()(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(program(MetaTensor(image)), program(image))


@every_format
@pytest.mark.parametrize("volume", [(8, 10, 12), (5, 23, 17)])
def test_volumes_of_other_sizes_go_through_the_sliding_window(files, suffix, volume):
    inferer = sliding_window(tiny.SIZE, patch_size=2, sw_batch_size=3)
    image = torch.randn(1, 1, *volume, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = inferer(image, tiny.network())
        torch.testing.assert_close(inferer(image, load_program(files[suffix])), expected, rtol=0, atol=1e-5)


@every_format
@pytest.mark.parametrize("shape", [(1, 1, 8, 10, 10), (1, 2, 8, 10, 12), (1, 8, 10, 12), (1, 1, 12, 10, 8)])
def test_an_input_of_another_size(files, suffix, shape):
    program = load_program(files[suffix])
    with pytest.raises(ValueError, match=r"model\.\w+ takes \(batch, 1, 8, 10, 12\), got .* windows of 8 x 10 x 12"):
        program(torch.zeros(shape))


@every_format
def test_missing(suffix, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_program(tmp_path / f"model{suffix}")


@pytest.mark.parametrize("name", ["model.pt", "model", "model.zip", "model.TS"])
def test_another_suffix(name):
    with pytest.raises(ValueError, match=r"has the suffix .*: a program ends in .ts, .pt2, .onnx.*export"):
        program_suffix(name)


@every_format
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_truncated(files, suffix, share, tmp_path):
    data, file = files[suffix].read_bytes(), tmp_path / f"torn{suffix}"
    file.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=rf"Program .*torn{suffix} cannot be read: .+ Copy it again"):
        load_program(file)


@every_format
def test_one_changed_byte_of_a_weight(files, suffix, tmp_path):
    data = bytearray(files[suffix].read_bytes())
    weights = tiny.network()[3].weight.detach().numpy().tobytes()
    place = bytes(data).index(weights)
    data[place] ^= 1
    (tmp_path / f"model{suffix}").write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be read: .* is damaged"):
        load_program(tmp_path / f"model{suffix}")


@every_format
def test_the_wrong_format(files, suffix, tmp_path):
    other = next(name for name in WRITERS if name != suffix)
    shutil.copy(files[suffix], tmp_path / f"model{other}")
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(tmp_path / f"model{other}")


@every_format
def test_weights_under_another_name(suffix, tmp_path):
    torch.save({"model": tiny.network().state_dict()}, tmp_path / f"model{suffix}")
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(tmp_path / f"model{suffix}")


@every_format
def test_a_pickle_that_runs_code(suffix, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / f"model{suffix}"
    file.write_bytes(tiny.pickled(tiny.Mark(mark)))
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()


@every_format
def test_no_record(files, suffix, tmp_path):
    records = tiny.contents(files[suffix].read_bytes())
    del records["extra/record.json"]
    (tmp_path / f"model{suffix}").write_bytes(tiny.archive(records))
    with pytest.raises(ValueError, match=r"model\.\w+ has no record.json.*Export it again"):
        load_program(tmp_path / f"model{suffix}")


def test_onnx(tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    from bertswin_ext.programs.onnx_graph import write_onnx

    file, image = tmp_path / "model.onnx", tiny.images(3)
    file.write_bytes(write_onnx(tiny.network(), tiny.images(2), tiny.passport().to_text()))
    program = load_program(file)
    assert program.record == tiny.record()
    torch.testing.assert_close(program(image), tiny.network()(image), rtol=0, atol=1e-5)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(file)
    file.write_bytes(tiny.pickled(tiny.Mark(tmp_path / "mark")))
    with pytest.raises(ValueError, match="cannot be read"):
        load_program(file)
    assert not (tmp_path / "mark").exists()
