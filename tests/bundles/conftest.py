import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
# a network and phantoms that take a second, for tests of the machinery
SMALL = {
    "phantoms": '{"count":6,"size":28,"spacing_mm":1.6,"seed":0}',
    "spacing_mm": 1.6,
    "img_size": 24,
    "hidden_size": 24,
    "num_heads": 2,
    "num_layers": 2,
    "window_size": 2,
    "stem_channels": 4,
    "decoder_hidden_size": 16,
    "epochs": 2,
    "steps_per_epoch": 6,
    "batch_size": 2,
    "learning_rate": 0.0003,
    "log_interval": 1,
    "num_images": 1,
}


@pytest.fixture(scope="session")
def bundle():
    return REPOSITORY / "bundles" / "pretrain"


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory):
    """Phantoms written once for all tests."""
    from bertswin_ext.data import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms") / "small"
    return write_phantoms(folder, count=6, size=28, spacing_mm=1.6, seed=0)


def command(bundle, *overlays, launcher=("-m",), **overrides):
    """The documented command line, with demo.json and the small sizes."""
    files = [str(bundle / "configs" / f"{name}.json") for name in ("train", "demo", *overlays)]
    options = [part for key, value in (SMALL | overrides).items() for part in (f"--{key}", str(value))]
    return [sys.executable, *launcher, "monai.bundle", "run", "--config_file", str(files), *options]


def environment(**extra):
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def run(arguments, cwd=None, check=True, timeout=300):
    """Run a command to its end; its output in the assertion if it fails."""
    result = subprocess.run(
        arguments, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    if check:
        assert result.returncode == 0, result.stderr[-4000:]
    return result
