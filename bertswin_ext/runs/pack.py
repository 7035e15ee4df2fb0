"""A trained model and its bundle as one folder that needs nothing else."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple_rep

from bertswin_ext.files import written_whole
from bertswin_ext.networks.record import AdaptationRecord, plain_size, read_record, spacing_in_words
from bertswin_ext.voxels import VOXELS

__all__ = ["pack_bundle"]

logger = logging.getLogger(__name__)

# what trains, and what infers where a bundle does that
_PROGRAMS = ("train.json", "inference.json")
_LEFT_BEHIND = ("data", "output", "models", "eval", "__pycache__")


def pack_bundle(bundle: str | Path, model: str | Path, output: str | Path) -> Path:
    """Copy a bundle with a model, and set the knobs of its programs to what the model was built and trained with.

    Where a program is read alone, as MONAI Label does, there are no overlays: the network's sizes have to stand in it.
    ``models/model.pt``, the sizes and the spacing are the model's; everything else is the bundle's, and the data,
    runs and other weights in the bundle's folder are left behind.

    Args:
        bundle: folder of the bundle.
        model: weights with their record, as training writes them.
        output: folder to write; it must not exist or be empty, and its name is the model's in MONAI Label.

    Returns:
        The folder.

    Raises:
        ValueError: the bundle is none, the model has no record or is not the bundle's kind of network, or the folder
            is taken.
    """
    bundle, output = Path(bundle), Path(output)
    record = read_record(model)
    programs = {name: _program(bundle / "configs" / name) for name in _names(bundle)}
    for name, program in programs.items():
        _check_kind(record, program, model, bundle / "configs" / name)
        _check_classes(record, program, model, bundle / "configs" / name)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"`output` {output} is not empty. Give a new folder, or remove this one.")
    shutil.copytree(bundle, output, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), dirs_exist_ok=True)
    for name, program in programs.items():
        _write(output / "configs" / name, program | _knobs(record, program))
    _write(output / "configs" / "metadata.json", _metadata(bundle / "configs" / "metadata.json", record))
    (output / "models").mkdir()
    with written_whole(output / "models" / "model.pt") as temporary:
        shutil.copyfile(model, temporary)
    logger.info("%s packed with %s into %s", bundle, model, output)
    return output


def _names(bundle: Path) -> list[str]:
    """The programs of a bundle; every one trains."""
    return [name for name in _PROGRAMS if name == _PROGRAMS[0] or (bundle / "configs" / name).is_file()]


def _program(path: Path) -> dict[str, Any]:
    """A configuration that is complete alone."""
    if not path.is_file():
        raise ValueError(f"`bundle` must be the folder of a bundle that trains; {path} does not exist.")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _check_kind(record: AdaptationRecord, program: Mapping[str, Any], model: str | Path, path: Path) -> None:
    """Raise if the model is not of the kind of network that a program builds."""
    kind = program["network_def"]["_target_"].rsplit(".", 1)[-1]
    if record.method != kind:
        raise ValueError(f"{model} holds a {record.method}, but {path} builds a {kind}. Pack the model of such a run.")


def _check_classes(record: AdaptationRecord, program: Mapping[str, Any], model: str | Path, path: Path) -> None:
    """Raise if a program's lists are for another number of classes."""
    lists = {name: program[name] for name in ("class_weights", "class_ratios") if name in program}
    wrong = [name for name, values in lists.items() if record.labels is not None and len(values) != len(record.labels)]
    if wrong:
        raise ValueError(
            f"{model} has {len(record.labels or ())} classes, but {' and '.join(wrong)} in {path} are for another "
            "number. Give them an entry for each class there, in a copy of the bundle, and pack that."
        )


def _knobs(record: AdaptationRecord, program: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a program that the model decides."""
    wanted = {**record.arguments, "spacing_mm": record.spacing_mm}
    if record.labels is not None:
        wanted["class_names"] = list(record.labels)
    return {name: plain_size(value) for name, value in wanted.items() if name in program}


def _metadata(path: Path, record: AdaptationRecord) -> dict[str, Any]:
    """The bundle's description with the model's window and voxels."""
    metadata = _program(path)
    tensors = metadata["network_data_format"]
    size = list(ensure_tuple_rep(record.arguments["img_size"], 3))
    for description in [*tensors["inputs"].values(), *tensors["outputs"].values()]:
        description["spatial_shape"] = size
    for description in tensors["outputs"].values():
        if description["format"] == "feature":
            metadata["pred_classes"] = _describe_features(description, record, size)
    if record.labels is not None:
        classes = {str(number): name for number, name in enumerate(record.labels)}
        metadata["pred_classes"] = ", ".join(f"{number} {name}" for number, name in classes.items())
        for description in metadata["network_data_format"]["outputs"].values():
            description |= {"num_channels": len(classes), "channel_def": classes}
    image_classes = str(metadata["image_classes"])
    voxels = f"{VOXELS.spacing_mm} mm voxels"
    metadata["image_classes"] = image_classes.replace(voxels, f"{spacing_in_words(record.spacing_mm)} voxels")
    return metadata


def _describe_features(description: dict[str, Any], record: AdaptationRecord, size: Sequence[int]) -> str:
    """Give an output its channels and its grid of patches; the same in words."""
    edge, channels = record.arguments["patch_size"], record.arguments["hidden_size"]
    description |= {"num_channels": channels, "spatial_shape": [voxels // edge for voxels in size]}
    return f"{channels} feature channels per {edge}^3 voxels"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
