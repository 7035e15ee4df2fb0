"""The deterministic numbers behind the reference files: inputs and weights from one integer hash."""

import json
import math
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


def hash24(stream, count):
    """``count`` numbers in [0, 1), exact in float32 (splitmix64 of the index)."""
    with np.errstate(over="ignore"):
        z = np.arange(count, dtype=np.uint64) + np.uint64(stream + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def sym(stream, shape, scale):
    """Numbers in [-scale, scale) of a given shape, float64."""
    return scale * (2 * hash24(stream, math.prod(shape)) - 1).reshape(shape)


def load(name):
    """Description and arrays of a reference file."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return json.loads((DATA / f"{name}.json").read_text()), dict(arrays)


def upstream_state_dict(description):
    """Weights under the authors' names, float32 arrays."""
    state_dict = {}
    for entry in description["state_dict"]:
        shape = tuple(entry["shape"])
        if entry["kind"] == "buffer":
            state_dict[entry["key"]] = np.zeros(shape, dtype=np.float32)
            continue
        offset = 1.0 if entry["kind"] == "norm_weight" else 0.0
        values = (offset + sym(entry["k"], shape, _scale(entry["kind"], shape))).astype(np.float32)
        np.testing.assert_allclose(values.astype(np.float64).sum(), entry["sum"], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(values.astype(np.float64)), entry["l2"], rtol=1e-6)
        state_dict[entry["key"]] = values
    return state_dict


def volume(batch, channels, size):
    """The reference input (b, c, i, j, k), float64 rounded to float32."""
    b, c, d, h, w = np.meshgrid(*(np.arange(n) for n in (batch, channels, *size)), indexing="ij")
    waves = (
        0.6 * np.sin(0.21 * d + 0.13 * h + 0.5 * b)
        + 0.4 * np.cos(0.17 * h - 0.29 * w + 0.3 * c)
        + 0.3 * np.sin(0.05 * d + 0.31 * w - 0.2 * b)
    )
    return (waves + sym(9001, waves.shape, 0.1)).astype(np.float32)


def _scale(kind, shape):
    scales = {"norm_weight": 0.1, "bias": 0.05, "token": 0.5, "table": 0.5}
    if kind == "convT_weight":
        return math.sqrt(3 / shape[0])
    if kind == "weight":
        return math.sqrt(3 / (math.prod(shape) / shape[0]))
    return scales[kind]
