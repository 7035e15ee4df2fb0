"""Which volumes to train and validate on: a datalist file or a folder, split by patient."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bertswin_ext.data.reading.volume_search import find_volumes, volume_stem
from bertswin_ext.errors import listed
from bertswin_ext.geometry import FieldOfView

logger = logging.getLogger(__name__)

Item = dict[str, Any]

JOINTS = ("left", "right")
_PATHS = ("image", "label")
_SECTIONS = ("training", "validation")


@dataclass(frozen=True)
class Datalist:
    """The volumes of a run, split by patient.

    Args:
        training: items to learn from.
        validation: items to measure on.
        source: the datalist or folder they come from.
        sha256: hash of the split, with paths relative to the source's folder: the same for a moved folder,
            another one for a changed list or split.
        prepared: what ``python -m bertswin_ext prepare`` wrote the volumes with, ``spacing_mm`` and more; None for
            volumes as they came from the scanner.

    An item is a dictionary with ``image`` (absolute path) and ``patient``, and where the datalist says so
    ``label`` (absolute path), ``joint`` (``left`` or ``right``), ``center_mm`` (3 numbers), ``fov`` (see
    `FieldOfView.of_item`), ``fold`` (int) and any other keys.
    """

    training: list[Item]
    validation: list[Item]
    source: str
    sha256: str
    prepared: dict[str, Any] | None = None


def load_datalist(source: str | Path, fold: int = 0, val_fraction: float = 0.2, seed: int = 0) -> Datalist:
    """Load a datalist and split it by patient.

    A datalist is a JSON object ``{"training": [...], "validation": [...]}`` of items; ``validation`` is
    optional and paths are relative to the file. A folder stands for the ``datalist.json`` in it, or is searched for
    volumes, see :func:`~bertswin_ext.data.reading.volume_search.find_volumes`.

    The validation items are, in this order: the ``validation`` list if it is not empty; the items whose
    ``fold`` is the one asked for, if the items have one; all items of ``max(1, round(n * val_fraction))`` of
    the ``n`` patients, those with the lowest SHA-256 of ``"<seed>:<patient>"``, so that a new patient moves
    few others. The items of a single patient serve for both, with a warning. An item without a ``patient`` is
    its own patient, named after its file.

    Args:
        source: path of a ``.json`` datalist, or of a folder.
        fold: fold to validate on.
        val_fraction: share of the patients to validate on, above 0 and below 1.
        seed: seed of the split.

    Returns:
        The split datalist.

    Raises:
        ValueError: if there is no such file or folder, or with all faults of the list at once.

    Example:
        >>> datalist = load_datalist("data/datalist.json", fold=1)  # doctest: +SKIP
        >>> len(datalist.training), len(datalist.validation)  # doctest: +SKIP
        (16, 4)
    """
    path = Path(os.path.abspath(Path(source).expanduser()))
    if not 0 < val_fraction < 1:
        raise ValueError(f"`val_fraction` must be above 0 and below 1, got {val_fraction}. Use for example 0.2.")
    if not path.exists():
        raise ValueError(f"the dataset {path} does not exist. Give a .json datalist or a folder of volumes.")
    if path.is_dir() and (path / "datalist.json").is_file():
        path = path / "datalist.json"
    if path.is_dir():
        folder, lists, prepared = path, _from_folder(path), None
    else:
        content = _content(path)
        folder, lists, prepared = path.parent, _items(path, content), content.get("prepared")
    training, validation = _split(path, lists, fold, val_fraction, seed)
    return Datalist(training, validation, str(path), _sha256(training, validation, folder), prepared)


def are_prepared(items: Sequence[Item]) -> bool:
    """Whether all items are volumes of a store that ``python -m bertswin_ext prepare`` wrote, which carry a hash."""
    return bool(items) and all("sha256" in item for item in items)


def split_sha256(training: Sequence[Item], validation: Sequence[Item]) -> str:
    """Hash of a split whose items need not come from a datalist: the same for files that were moved together."""
    folders = [os.path.dirname(item[key]) for item in [*training, *validation] for key in _PATHS if key in item]
    return _sha256(training, validation, Path(os.path.commonpath(folders)))


def _from_folder(folder: Path) -> dict[str, list[Item]]:
    """List the volumes of a folder as items without a split."""
    items = [{"image": str(path), "patient": patient} for path, patient in find_volumes(folder)]
    return {"training": items, "validation": []}


def load_items(path: Path) -> dict[str, list[Item]]:
    """Read the lists of a datalist, unsplit, with absolute paths.

    Raises:
        ValueError: with all faults of the file at once.
    """
    return _items(path, _content(path))


def _items(path: Path, content: dict[str, Any]) -> dict[str, list[Item]]:
    """Check the lists of a datalist that has been read, and make their paths absolute."""
    lists = {section: content.get(section) or [] for section in _SECTIONS}
    for section, items in lists.items():
        if not isinstance(items, list):
            raise ValueError(f'{path}: "{section}" must be a list of items, got {type(items).__name__}.')
    if not lists["training"]:
        raise ValueError(f'{path} has no "training" list, or an empty one. List the items to train on in it.')
    _raise_faults(path, _item_faults(lists, path.parent))
    _raise_faults(path, _nameless_faults(lists))
    return {section: [_absolute(item, path.parent) for item in items] for section, items in lists.items()}


def _content(path: Path) -> dict[str, Any]:
    """Read the JSON object of a datalist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}. Give a .json datalist or a folder.") from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be a JSON object {{"training": [...]}}, got {type(content).__name__}.')
    return content


def _raise_faults(path: Path, faults: list[str]) -> None:
    """Raise all faults as one error, if there are any."""
    if faults:
        raise ValueError(listed(faults, str(path)))


def _absolute(item: Item, folder: Path) -> Item:
    """Make the paths of an item absolute and its patient a string."""
    paths = {key: _path(item[key], folder) for key in _PATHS if key in item}
    return {**item, **paths, "patient": str(item.get("patient", volume_stem(Path(item["image"]))))}


def _path(text: str, folder: Path) -> str:
    """Make a path of a datalist absolute."""
    return os.path.abspath(folder / Path(text).expanduser())


def _item_faults(lists: dict[str, list[Any]], folder: Path) -> list[str]:
    """Check every item by itself."""
    return [
        f"{section}[{index}]: {fault}"
        for section in _SECTIONS
        for index, item in enumerate(lists[section])
        for fault in _faults_of(item, folder)
    ]


def _faults_of(item: Any, folder: Path) -> list[str]:
    """List what is wrong with one item."""
    if not isinstance(item, dict):
        return [f'must be an object with an "image", got {item!r}']
    faults = [] if "image" in item else ['has no "image"']
    for key in _PATHS:
        if key in item and not (isinstance(item[key], str) and item[key]):
            faults.append(f'"{key}" must be a path, got {item[key]!r}')
        elif key in item and not os.path.exists(_path(item[key], folder)):
            faults.append(f'"{key}" does not exist: {_path(item[key], folder)}')
    for key, (is_valid, rule) in _RULES.items():
        if key in item and not is_valid(item[key]):
            faults.append(f'"{key}" must be {rule}, got {item[key]!r}')
    return faults


def _nameless_faults(lists: dict[str, list[Item]]) -> list[str]:
    """List items without a patient whose file name, which stands in for it, belongs to several files."""
    faults = []
    first: dict[str, tuple[str, str]] = {}
    for section in _SECTIONS:
        for index, item in enumerate(lists[section]):
            if "patient" in item:
                continue
            stem, place = volume_stem(Path(item["image"])), f"{section}[{index}]"
            seen, image = first.setdefault(stem, (place, item["image"]))
            if image != item["image"]:
                faults.append(f'{place}: has no "patient", and its file name "{stem}" is also that of {seen}')
    return faults


def _is_integer(value: Any) -> bool:
    """Tell whether a value is an integer and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_point(value: Any) -> bool:
    """Tell whether a value is a list of 3 finite numbers."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(number, float) or _is_integer(number) for number in value) and bool(np.isfinite(value).all())


def _is_field_of_view(value: Any) -> bool:
    """Tell whether a value describes a field of view."""
    try:
        return isinstance(value, dict) and FieldOfView.of_item(value) is not None
    except ValueError:
        return False


_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "patient": (lambda value: _is_integer(value) or (isinstance(value, str) and value != ""), "a name"),
    "joint": (lambda value: value in JOINTS, '"left" or "right"'),
    "center_mm": (_is_point, "3 numbers"),
    "fold": (_is_integer, "an integer"),
    "fov": (_is_field_of_view, 'a cylinder {"center_mm": [x, y, z], "radius_mm": r}, with an optional "axis"'),
}


def _split(
    path: Path, lists: dict[str, list[Item]], fold: int, val_fraction: float, seed: int
) -> tuple[list[Item], list[Item]]:
    """Split the items by patient."""
    training, validation = lists["training"], lists["validation"]
    faults = _duplicates(lists)
    if validation:
        _raise_faults(path, faults + _shared_patients(training, validation))
        return training, validation
    patients = sorted({item["patient"] for item in training})
    folds = {item["fold"] for item in training if "fold" in item}
    if not folds and fold != 0:
        faults.append(f'fold {fold} is asked for, but no item has a "fold". Add folds, or ask for fold 0')
    if folds:
        faults += _fold_faults(training, fold, is_single=len(patients) == 1)
    _raise_faults(path, faults)
    if len(patients) == 1:
        logger.warning("%s has one patient: validation figures only show how well it is fitted.", path)
        return training, list(training)
    held_out = _draw(patients, val_fraction, seed)
    is_held_out = [item["fold"] == fold if folds else item["patient"] in held_out for item in training]
    pairs = list(zip(training, is_held_out, strict=True))
    return [item for item, out in pairs if not out], [item for item, out in pairs if out]


def _draw(patients: list[str], val_fraction: float, seed: int) -> set[str]:
    """Choose the validation patients by the hash of their names, leaving at least one for training."""
    ranked = sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())
    return set(ranked[: min(max(1, round(len(patients) * val_fraction)), len(patients) - 1)])


def _duplicates(lists: dict[str, list[Item]]) -> list[str]:
    """List volumes that come twice, or under two patients; one volume may have a left and a right joint."""
    faults = []
    first: dict[str, tuple[str, str]] = {}
    views: dict[tuple[Any, ...], str] = {}
    for section in _SECTIONS:
        for index, item in enumerate(lists[section]):
            place, image = f"{section}[{index}]", os.path.realpath(item["image"])
            view = (image, item.get("joint"), str(item.get("center_mm")))
            seen, patient = first.setdefault(image, (place, item["patient"]))
            if view in views:
                faults.append(f"{place}: the image is already in {views[view]}: {item['image']}")
            elif patient != item["patient"]:
                faults.append(f'{place}: the image of patient "{item["patient"]}" is that of "{patient}" in {seen}')
            views.setdefault(view, place)
    return faults


def _shared_patients(training: list[Item], validation: list[Item]) -> list[str]:
    """List the patients that are in both lists."""
    shared = {item["patient"] for item in training} & {item["patient"] for item in validation}
    return [f'patient "{patient}" is in both training and validation' for patient in sorted(shared)]


def _fold_faults(items: list[Item], fold: int, is_single: bool) -> list[str]:
    """List what is wrong with the folds."""
    bare = [index for index, item in enumerate(items) if "fold" not in item]
    if bare:
        return [f'training[{index}]: has no "fold", but other items have one' for index in bare]
    folds: dict[str, set[int]] = {}
    for item in items:
        folds.setdefault(item["patient"], set()).add(item["fold"])
    faults = [
        f'patient "{patient}" is in more than one fold: {", ".join(map(str, sorted(found)))}'
        for patient, found in sorted(folds.items())
        if len(found) > 1
    ]
    known = sorted(set().union(*folds.values()))
    if fold not in known:
        faults.append(f"no item has fold {fold}. Choose one of {', '.join(map(str, known))}")
    elif len(known) == 1 and not is_single:
        faults.append(f"all items have fold {fold}, so none is left to train on. Use at least 2 folds")
    return faults


def _sha256(training: Sequence[Item], validation: Sequence[Item], folder: Path) -> str:
    """Hash a split with paths relative to the folder of the datalist."""
    split = {
        section: [
            {**item, **{key: Path(os.path.relpath(item[key], folder)).as_posix() for key in _PATHS if key in item}}
            for item in items
        ]
        for section, items in zip(_SECTIONS, (training, validation), strict=True)
    }
    text = json.dumps(split, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
