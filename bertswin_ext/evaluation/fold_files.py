"""Where the scores of the folds are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from bertswin_ext.errors import listed
from bertswin_ext.evaluation.score_table import CaseScores, read_scores

__all__ = ["find_folds", "read_folds"]

_PLACES = ("evaluation/scores.csv", "scores.csv")
_FOLD = re.compile(r"fold_(\d+)")


def find_folds(source: str | Path | Sequence[str | Path], num_folds: int | None = None) -> dict[str, Path]:
    """Find the scores of the folds.

    Args:
        source: a folder with ``fold_0``, ``fold_1``, ...; or the folds' own folders or ``scores.csv`` files. A folder's
            scores are ``evaluation/scores.csv`` or ``scores.csv`` in it.
        num_folds: how many folds there must be; by default as many as the highest number tells.

    Returns:
        The files by the names of their folds, in order.

    Raises:
        ValueError: there is no fold, or some are missing or without scores, or two have one name.

    Example:
        >>> find_folds("output")  # doctest: +SKIP
        {'fold_0': PosixPath('output/fold_0/evaluation/scores.csv'), ...}
    """
    folders = _fold_folders(Path(source)) if isinstance(source, str | Path) else [Path(entry) for entry in source]
    if not folders:
        raise ValueError("`input` must name the folders of the folds, got an empty list.")
    named: dict[str, Path] = {}
    faults = []
    for folder in folders:
        name, file = _fold_name(folder), _scores_file(folder)
        if file is None:
            faults.append(f"{folder} has no {' or '.join(_PLACES)}: evaluate this fold.")
        if name in named:
            faults.append(f"{name} is both {named[name]} and {folder}: give every fold once.")
        named[name] = file or folder
    faults += _wrong_number(named, num_folds)
    if faults:
        raise ValueError(listed(faults, "the folds"))
    return dict(sorted(named.items(), key=lambda entry: _number(entry[0])))


def read_folds(files: Mapping[str, Path]) -> dict[str, list[CaseScores]]:
    """Read the scores of the folds.

    Args:
        files: of `find_folds`.

    Raises:
        ValueError: what is wrong with any of the files, all at once.
    """
    read: dict[str, list[CaseScores]] = {}
    faults = []
    for name, file in files.items():
        try:
            read[name] = read_scores(file)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ValueError(listed(faults, "the folds"))
    return read


def _fold_folders(folder: Path) -> list[Path]:
    """The folders of the folds in a folder."""
    found = sorted((f for f in folder.glob("fold_*") if _FOLD.fullmatch(f.name)), key=lambda f: _number(f.name))
    if not found:
        raise ValueError(
            f"`input` {folder} must be a folder with fold_0, fold_1, ... in it, or a list of folders; found none. "
            "Train with --fold 0 --output_dir output/fold_0, and so on."
        )
    return found


def _scores_file(path: Path) -> Path | None:
    """The scores in a folder, or the file itself."""
    if path.is_file():
        return path
    return next((path / place for place in _PLACES if (path / place).is_file()), None)


def _fold_name(path: Path) -> str:
    """``fold_3`` where the path says so, else the folder."""
    numbered = [part for part in path.parts if _FOLD.fullmatch(part)]
    if numbered:
        return numbered[-1]
    return str(path.parent if path.suffix == ".csv" else path)


def _wrong_number(names: Mapping[str, Path], num_folds: int | None) -> list[str]:
    """Folds that are left out, or one too many."""
    numbers = {int(match[1]) for name in names if (match := _FOLD.fullmatch(name))}
    if not numbers:
        lacks = num_folds is not None and len(names) != num_folds
        return [f"there must be {num_folds} folds, {len(names)} were given."] if lacks else []
    count = num_folds or max(numbers) + 1
    faults = [f"fold_{n} is missing: train and evaluate it." for n in range(count) if n not in numbers]
    return faults + [f"fold_{n} is beyond the {count} folds asked for." for n in sorted(numbers) if n >= count]


def _number(name: str) -> tuple[int, str]:
    """What folds are sorted by."""
    match = _FOLD.fullmatch(name)
    return (int(match[1]) if match else 0, name)
