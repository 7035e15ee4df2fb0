"""A bundle of the repository in the layout in which it is published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from bertswin_ext.errors import listed
from bertswin_ext.files import written_whole
from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of
from bertswin_ext.runs.pack import pack_bundle

__all__ = ["FULL_SIZE", "stage_bundle"]

# the overlay with the sizes that a packed bundle had before
FULL_SIZE = "full_size.json"

_MODEL = "demo.pt"
_REQUIRED = ("LICENSE", "configs/metadata.json", "docs/README.md")


def stage_bundle(bundle: str | Path, output: str | Path) -> Path:
    """Copy a bundle as it is published.

    A bundle whose ``models`` holds a ``demo.pt`` is packed with it (`pack_bundle`): that becomes ``models/model.pt``,
    and the programs get its sizes, so that MONAI loads the one into the other. The recipe's own sizes stay in an
    overlay, ``configs/full_size.json``. Any other bundle is copied as it is.

    ``models/model.pt`` has its tensors by name, where ``monai.bundle.load`` looks for them (and leaves a network at
    random values without an error if they are elsewhere), and under ``model``, too, for everyone else; they are stored
    once.

    Args:
        bundle: its committed files.
        output: folder to write.

    Returns:
        The folder.

    Raises:
        ValueError: the bundle has no weights, or a file of the layout is lacking.
    """
    bundle, output = Path(bundle), Path(output)
    faults = _faults(bundle)
    if faults:
        raise ValueError(listed(faults, f"the bundle {bundle.name}"))
    model = bundle / "models" / _MODEL
    if not model.is_file():
        shutil.copytree(bundle, output)
        return output
    pack_bundle(bundle, model, output)
    _write_for_every_reader(read_checkpoint(model), output / "models" / "model.pt")
    _keep_sizes(bundle / "configs" / "train.json", output / "configs")
    return output


def _faults(bundle: Path) -> list[str]:
    """What a published bundle lacks, or has too much."""
    faults = [f"{name} is missing." for name in _REQUIRED if not (bundle / name).is_file()]
    if len(list(bundle.glob("here_*.py"))) != 1:
        faults.append("There must be one here_*.py, by which the bundle finds its folder.")
    if not any(path.is_file() for path in bundle.glob("models/**/*")):
        faults.append(f"There are no weights in models. Commit models/{_MODEL}, or what its programs read.")
    return faults


def _write_for_every_reader(content: Mapping[str, Any], path: Path) -> None:
    """Write weights bare and under ``model``, with the same bytes whatever the file is called."""
    buffer = BytesIO()
    torch.save({**tensors_of(content), **content}, buffer)
    with written_whole(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _keep_sizes(program: Path, configs: Path) -> None:
    """Write what packing has changed in the training as an overlay."""
    before, after = _read(program), _read(configs / program.name)
    changed = {name: value for name, value in before.items() if after[name] != value}
    description = "The recipe's own sizes, in place of those of models/model.pt: list it after train.json."
    with written_whole(configs / FULL_SIZE) as temporary:
        temporary.write_text(json.dumps({"_desc_": description, **changed}, indent=4) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """A configuration."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
