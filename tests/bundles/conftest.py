import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import warm

REPOSITORY = Path(__file__).parents[2]
# a network and phantoms that take a second, for tests of the machinery; on top of a bundle's train.json and demo.json
SMALL = {
    "pretrain": {
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
    },
    "tmj_segmentation": {
        "phantoms": '{"count":6,"size":28,"spacing_mm":1.6,"seed":0}',
        "spacing_mm": 1.6,
        "img_size": 24,
        "hidden_size": 24,
        "num_heads": 2,
        "num_layers": 2,
        "window_size": 2,
        "stem_channels": 4,
        "decoder_channels": 4,
        "encoder_path": "",
        "epochs": 2,
        "crops_per_volume": 3,
        "batch_size": 2,
        "val_interval": 1,
        "log_interval": 1,
        "num_images": 1,
    },
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


def command(
    bundle: str | Path, *overlays: str | Path, launcher: Sequence[str] = ("-m",), **overrides: object
) -> list[str]:
    """The documented command line, with demo.json and the small sizes.

    Args:
        bundle: ``"pretrain"``, ``"tmj_segmentation"``, or the folder of either or of a copy.
        overlays: further configurations: names of the bundle's, or paths.
        launcher: what stands between the interpreter and ``monai.bundle``.
        overrides: knobs, in place of the small sizes.
    """
    folder = REPOSITORY / "bundles" / bundle  # a path that is absolute stays what it is
    files = [str(folder / "configs" / f"{name}.json") for name in ("train", "demo")]
    files += [str(o) if Path(o).suffix else str(folder / "configs" / f"{o}.json") for o in overlays]
    options = [part for key, value in (SMALL[folder.name] | overrides).items() for part in (f"--{key}", str(value))]
    return [sys.executable, *launcher, "monai.bundle", "run", "--config_file", str(files), *options]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, **extra}


def run(
    arguments: Sequence[str | Path],
    cwd: str | Path | None = None,
    check: bool = True,
    timeout: float = 300,
    fresh: bool = False,
    moment: warm.Moment | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m ...`` to its end; its output in the assertion if it fails.

    It is a process of its own either way: exit status, signals, output, working directory and environment are its own.

    Args:
        arguments: the command, as `command` makes it.
        cwd: its working directory.
        check: it must succeed.
        timeout: seconds.
        fresh: start an interpreter, which imports everything anew; by default `tests.warm` forks one that has.
        moment: what happens to it and when, see `tests.moments`; not with ``fresh``.
    """
    if fresh:
        assert moment is None
        result = subprocess.run(
            arguments, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
    else:
        result = warm.run(arguments, cwd=cwd, environment=environment(), moment=moment, seconds=timeout)
    if check:
        assert result.returncode == 0, result.stderr[-4000:]
    return result
