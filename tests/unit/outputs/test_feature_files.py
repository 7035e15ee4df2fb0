import csv
from dataclasses import replace

import numpy as np
import pytest

from bertswin_ext.outputs.feature_files import COLUMNS, JointFeatures, feature_row, write_feature_table, write_features


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return JointFeatures(
        scan="head",
        patient="P01",
        joint="left",
        center_mm=(-50.0, 1.25, 10.0),
        confidence=None,
        mirrored=True,
        tokens=random.normal(size=(8, 6)).astype(np.float32),
        valid=np.array([True] * 5 + [False] * 3),
        positions_mm=random.normal(size=(8, 3)),
        grid_size=(2, 2, 2),
        spacing_mm=(0.8, 0.8, 0.8),
        model_sha256="ab" * 32,
    )


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_npz_says_all_there_is_to_know(features, tmp_path):
    write_features(tmp_path / "head" / "left.npz", features)
    with np.load(tmp_path / "head" / "left.npz", allow_pickle=False) as arrays:
        loaded = dict(arrays)
    assert loaded["tokens"].dtype == np.float32
    np.testing.assert_array_equal(loaded["tokens"], features.tokens)
    np.testing.assert_array_equal(loaded["positions_mm"], features.positions_mm)
    np.testing.assert_array_equal(loaded["valid"], features.valid)
    np.testing.assert_allclose(loaded["mean"], features.tokens[:5].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(loaded["std"], features.tokens[:5].std(axis=0), rtol=1e-6)
    assert loaded["grid_size"].tolist() == [2, 2, 2]
    assert loaded["center_mm"].tolist() == [-50.0, 1.25, 10.0]
    assert loaded["spacing_mm"].tolist() == [0.8, 0.8, 0.8]
    words = {name: str(loaded[name]) for name in ("scan", "patient", "joint", "model_sha256")}
    assert words == {"scan": "head", "patient": "P01", "joint": "left", "model_sha256": "ab" * 32}
    assert bool(loaded["mirrored"])
    assert np.isnan(loaded["confidence"])


def test_the_same_features_are_the_same_bytes(features, tmp_path):
    write_features(tmp_path / "a.npz", features)
    write_features(tmp_path / "b.npz", replace(features, tokens=features.tokens.copy(order="F")))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_row_has_the_means_to_the_last_bit(features, tmp_path):
    found = replace(features, joint="right", confidence=0.87654, valid=np.ones(8, dtype=bool))
    rows = [feature_row(features, "head/left.npz"), feature_row(found, "head/right.npz")]
    write_feature_table(tmp_path / "features.csv", rows)
    left, right = rows_of(tmp_path / "features.csv")
    assert [name for name in left if name in COLUMNS] == list(COLUMNS)
    assert list(left)[len(COLUMNS) :] == ["f0000", "f0001", "f0002", "f0003", "f0004", "f0005"]
    means = np.array([float(left[f"f{index:04d}"]) for index in range(6)], dtype=np.float32)
    np.testing.assert_array_equal(means, features.mean)
    assert [left[name] for name in COLUMNS] == [
        *("head", "P01", "left", "-50.000", "1.250", "10.000", "", "0.6250", "ab" * 32, "head/left.npz")
    ]
    assert (right["confidence"], right["valid_share"]) == ("0.8765", "1.0000")
    assert float(right["f0003"]) == pytest.approx(float(features.tokens[:, 3].mean()), rel=1e-6)


def test_a_table_of_nothing_has_a_head(tmp_path):
    write_feature_table(tmp_path / "features.csv", [])
    assert (tmp_path / "features.csv").read_text() == ",".join(COLUMNS) + "\n"
