"""Features and reconstructions of joints: the documented commands, on phantoms of a second."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertswin_ext.networks import AdaptationRecord, BertsWinMAE, bertswin_segmenter_tiny, save_network
from tests.bundles.conftest import REPOSITORY, run

pytestmark = pytest.mark.bundle

SIZES = {"img_size": 24, "patch_size": 8, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "window_size": 2}
CONFIGS = REPOSITORY / "bundles" / "inference" / "configs"


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A masked autoencoder that has learnt nothing."""
    torch.manual_seed(0)
    network = BertsWinMAE(**SIZES, stem_channels=4, decoder_hidden_size=16)
    path = tmp_path_factory.mktemp("pretrained") / "model.pt"
    save_network(network, path, AdaptationRecord.of(network, 1.6))
    return path


@pytest.fixture(scope="module")
def datalist(phantom_dir, tmp_path_factory):
    """Two phantoms, with their joints and fields of view; of the third nobody knows the joint."""
    content = json.loads(Path(phantom_dir).read_text())
    items = [
        {key: item[key] for key in ("patient", "joint", "center_mm", "fov")}
        | {"image": str(Path(phantom_dir).parent / item["image"])}
        for item in content["training"][:3]
    ]
    known = tmp_path_factory.mktemp("lists") / "known.json"
    known.write_text(json.dumps({"training": items[:2]}))
    bare = {key: items[2][key] for key in ("patient", "image")}
    known.with_name("unknown.json").write_text(json.dumps({"training": [bare, *items[:2]]}))
    return known


def program(name, check=True, cwd=None, **knobs):
    """Run one of the configurations."""
    options = [part for key, value in knobs.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / f"{name}.json"), *options]
    return run(command, cwd=cwd, check=check)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def features(datalist, model_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    program("features", input=datalist, model_path=model_path, output_dir=folder)
    return folder


def test_features_for_statistics(features, datalist):
    items = json.loads(datalist.read_text())["training"]
    rows = rows_of(features / "features.csv")
    assert [(row["patient"], row["joint"]) for row in rows] == [(item["patient"], item["joint"]) for item in items]
    table = np.array([[float(row[f"f{index:04d}"]) for index in range(24)] for row in rows])
    assert table.shape == (2, 24)
    assert np.abs(table[0] - table[1]).max() > 1e-4
    for row, item in zip(rows, items, strict=True):
        with np.load(features / row["file"], allow_pickle=False) as arrays:
            assert arrays["tokens"].shape == (27, 24)
            np.testing.assert_allclose(arrays["center_mm"], item["center_mm"], atol=1e-6)
            np.testing.assert_allclose(arrays["positions_mm"].mean(axis=0), item["center_mm"], atol=1e-6)
            np.testing.assert_allclose(arrays["mean"], arrays["tokens"][arrays["valid"]].mean(axis=0), rtol=1e-4)
            assert arrays["spacing_mm"].tolist() == [1.6] * 3
    assert "Traceback" not in (features / "run.log").read_text()


def test_the_same_bytes_again_from_anywhere(features, datalist, model_path, tmp_path):
    program("features", input=datalist, model_path=model_path, output_dir=tmp_path / "again", cwd=tmp_path)
    files = sorted(path.relative_to(features) for path in features.rglob("*.*") if path.suffix in (".npz", ".csv"))
    assert len(files) == 3
    assert [(tmp_path / "again" / file).read_bytes() == (features / file).read_bytes() for file in files] == [True] * 3


def test_a_scan_without_joints_is_named_at_the_end(features, datalist, model_path, tmp_path):
    options = {"model_path": model_path, "output_dir": tmp_path, "find_joints": False}
    result = program("features", check=False, input=datalist.with_name("unknown.json"), **options)
    assert result.returncode == 1
    cause = result.stderr.split("\nThe cause: ")[1]
    assert cause.startswith("1 of 3 scans came to nothing, the others are written:\n  - image_0002: no joint is named")
    assert "Give the places, in mm in the RAS world: --joints" in cause
    assert (tmp_path / "features.csv").read_bytes() == (features / "features.csv").read_bytes()


def test_reconstructions(datalist, model_path, tmp_path):
    program("reconstruct", input=datalist, model_path=model_path, output_dir=tmp_path, num_masks=2, masking_ratio=0.5)
    rows = rows_of(tmp_path / "metrics.csv")
    assert [row["mask"] for row in rows] == ["0", "1", "0", "1"]
    assert all(0 < float(row["masked_mse"]) < 100 for row in rows)
    assert all(0.45 < float(row["hidden_share"]) < 0.6 for row in rows)
    pictures = sorted(tmp_path.rglob("*.png"))
    assert [path.name for path in pictures] == [f"{row['joint']}_reconstruction.png" for row in rows[::2]]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)


def test_the_middle_of_any_scan_needs_no_joint(datalist, model_path, tmp_path):
    image = json.loads(datalist.read_text())["training"][0]["image"]
    knobs = {"input": image, "where": "centre", "seed": 3, "window_hu": "[-500,1500]"}
    program("reconstruct", model_path=model_path, output_dir=tmp_path, **knobs)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["centre_reconstruction.png"]
    (row,) = rows_of(tmp_path / "metrics.csv")
    assert row["joint"] == ""


def test_weights_of_another_kind(datalist, tmp_path):
    segmenter = bertswin_segmenter_tiny(num_layers=1)
    save_network(segmenter, tmp_path / "model.pt", AdaptationRecord.of(segmenter, 0.8))
    options = {"input": datalist, "output_dir": tmp_path / "out", "model_path": tmp_path / "model.pt"}
    result = program("features", check=False, **options)
    assert result.returncode == 1
    assert "holds the weights of a BertsWinSegmenter; features and reconstructions need" in result.stderr


def test_no_weights(datalist, tmp_path):
    options = {"input": datalist, "output_dir": tmp_path / "out", "model_path": tmp_path / "none.pt"}
    result = program("reconstruct", check=False, **options)
    assert result.returncode == 1
    assert "import_weights FILE --bundle inference" in result.stderr.split("\nThe cause: ")[1]


def test_a_knob_that_does_not_exist(datalist, model_path, tmp_path):
    result = program("features", check=False, input=datalist, model_path=model_path, output_dir=tmp_path, spacing=1)
    assert result.returncode == 1
    assert "the entry 'spacing' does not exist" in result.stderr
