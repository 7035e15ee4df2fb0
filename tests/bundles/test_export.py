"""Trained networks as programs: by export.json, and by MONAI's own commands."""

import importlib.util
import re
import shlex
import sys

import pytest
import torch

from bertswin_ext.networks import BertsWinSegmenter, load_weights, read_record
from bertswin_ext.programs.agreement import compare_logits, ct_like
from bertswin_ext.programs.program import load_program
from tests.bundles.conftest import REPOSITORY, SMALL, command, run

pytestmark = pytest.mark.bundle

TMJ = "tmj_segmentation"
CONFIGS = REPOSITORY / "bundles" / TMJ / "configs"
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
HAS_TENSORRT = torch.cuda.is_available() and importlib.util.find_spec("tensorrt") is not None
NEEDS_ONNX = pytest.mark.skipif(not HAS_ONNX, reason="needs the extra [onnx]")
# what makes the network
KNOBS = {
    name: value
    for name, value in SMALL[TMJ].items()
    if re.fullmatch(r"spacing_mm|img_size|num_\w+|hidden_size|window_size|stem_channels|decoder_channels", name)
} | {"patch_size": 8}


@pytest.fixture(scope="module")
def trained(phantom_dir, tmp_path_factory):
    """Weights of a run of a second."""
    folder = tmp_path_factory.mktemp("trained")
    run(command(TMJ, dataset_dir=phantom_dir, output_dir=folder, epochs=1))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def network(trained):
    network = BertsWinSegmenter(**read_record(trained).arguments)
    load_weights(network, trained)
    return network.eval()


def files(*names):
    return ["--config_file", str([str(CONFIGS / f"{name}.json") for name in names])]


def options(**values):
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


def export(model, folder, *overlays, check=True, **knobs):
    """The command of export.json."""
    head = [sys.executable, "-m", "monai.bundle", "run", *files("inference", *overlays, "export")]
    return run([*head, *options(**KNOBS, model_path=model, output_dir=folder, **knobs)], check=check)


def monai(name, *config, **knobs):
    """One of MONAI's own commands."""
    return run([sys.executable, "-m", "monai.bundle", name, *config, *options(**knobs)])


@torch.no_grad()
def agree(network, program, batch_sizes=(1, 3)):
    for batch_size in batch_sizes:
        image = ct_like((batch_size, 1, 24, 24, 24), seed=batch_size)
        found = compare_logits(network(image), program(image))
        assert found.largest < 1e-4
        assert found.same_labels > 0.9999


def test_export(trained, network, tmp_path):
    result = export(trained, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("model.*")) == ["model.pt2", "model.ts"]
    assert "same labels" in result.stderr
    for name in ("model.ts", "model.pt2"):
        program = load_program(tmp_path / name)
        assert program.record == read_record(trained)
        agree(network, program)


@NEEDS_ONNX
def test_export_to_onnx(trained, network, tmp_path):
    export(trained, tmp_path, formats="['onnx']")
    agree(network, load_program(tmp_path / "model.onnx"))


def test_weights_of_other_voxels_are_not_exported(trained, tmp_path):
    result = export(trained, tmp_path, check=False, class_names="['background','mandible','maxilla']")
    assert result.returncode != 0
    assert "the network learnt background, mandible, skull" in result.stderr
    assert not list(tmp_path.glob("model.*"))


def test_monais_ckpt_export(trained, network, tmp_path):
    """TorchScript, with this bundle's metadata and configuration inside, without our record."""
    file = tmp_path / "model.ts"
    shape = {"use_trace": True, "input_shape": "[1,1,24,24,24]", "key_in_ckpt": "model"}
    knobs = KNOBS | shape | {"ckpt_file": trained, "filepath": file, "net_id": "network_def"}
    monai("ckpt_export", "--meta_file", CONFIGS / "metadata.json", *files("inference"), **knobs)
    agree(network, torch.jit.load(file))
    with pytest.raises(ValueError, match=r"has no record.json"):
        load_program(file)


@NEEDS_ONNX
def test_monais_onnx_export(trained, network, tmp_path):
    """Of the batch size that it is given."""
    import onnxruntime

    file = tmp_path / "model.onnx"
    knobs = KNOBS | {"input_shape": "[2,1,24,24,24]", "key_in_ckpt": "model", "ckpt_file": trained, "filepath": file}
    monai("onnx_export", *files("inference"), net_id="network_def", use_trace=True, **knobs)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def program(image):
        return torch.from_numpy(session.run(None, {given.name: image.numpy()})[0])

    assert given.shape == [2, 1, 24, 24, 24]
    agree(network, program, batch_sizes=[2])


PAGE = (REPOSITORY / "docs/how-to/export.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.split()[3] + str(COMMANDS.index(line)))
def test_the_commands_of_the_page(line, trained, phantom_dir, tmp_path):
    """With small sizes."""
    if "onnx_export" in line and not HAS_ONNX:
        pytest.skip("needs the extra [onnx]")
    if "tensorrt" in line and HAS_TENSORRT:
        pytest.skip("the page says what happens without it")
    words = shlex.split(line.replace("weights/model.pt", str(trained)).replace("224", "24"))
    places = {"exported": tmp_path, "segmented": tmp_path, "scans": phantom_dir}
    words = [re.sub(r"^(exported|segmented|scans)\b", lambda found: str(places[found[0]]), word) for word in words]
    assert words[0] == "python"
    result = run([sys.executable, *words[1:], *options(**KNOBS)], cwd=REPOSITORY, check="tensorrt" not in line)
    if "tensorrt" in line:
        assert "TensorRT needs an NVIDIA GPU" in result.stderr
    else:
        assert [path for path in tmp_path.iterdir() if path.suffix in (".ts", ".onnx")]


def test_the_programs_of_the_page(trained, tmp_path, monkeypatch, capsys):
    export(trained, tmp_path / "exported", formats="['ts']")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, "block", "exec"), names)
    logits = names["inferer"](torch.zeros(1, 1, 30, 20, 24), names["program"])
    assert logits.shape == (1, 3, 30, 20, 24)
    assert str(read_record(trained).labels) in capsys.readouterr().out
    assert (tmp_path / "exported/segresnet.ts").is_file()
