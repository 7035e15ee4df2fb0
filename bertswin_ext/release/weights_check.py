"""Whether the weights in an unpacked bundle can be read without running code from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bertswin_ext.errors import listed
from bertswin_ext.networks.checkpoint import read_checkpoint
from bertswin_ext.programs.program import PROGRAM_SUFFIXES, load_program

__all__ = ["check_weights"]

_READERS: dict[str, Callable[[Path], object]] = {
    ".pt": read_checkpoint,
    **dict.fromkeys(PROGRAM_SUFFIXES, load_program),
}
# what else a bundle is made of; anything more may be a pickle under another name, or a program of the machine
_TEXTS = (".cff", ".conf", ".csv", ".ipynb", ".json", ".md", ".py", ".rst", ".sh", ".txt", ".yaml", ".yml")
_PICTURES = (".gif", ".jpeg", ".jpg", ".png", ".svg")
_NAMES = ("LICENSE", "NOTICES", "NOTICE", ".gitignore")


def check_weights(folder: str | Path) -> list[str]:
    """Read every file of weights below a folder with a reader that runs no code from it.

    Args:
        folder: an unpacked bundle.

    Returns:
        The files of weights, relative to the folder.

    Raises:
        ValueError: a file is torn, holds more than tensors and plain values, or is of a kind that cannot be read
            safely; the message lists all of them.
    """
    folder = Path(folder)
    found, faults = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if suffix in _READERS:
            found.append(name)
            faults += _faults(_READERS[suffix], path, name)
        elif suffix not in (*_TEXTS, *_PICTURES) and path.name not in _NAMES:
            faults.append(f"{name} is of a kind that cannot be checked: weights are {', '.join(_READERS)} files.")
    if faults:
        raise ValueError(listed(faults, f"the files of {folder.name}"))
    return found


def _faults(reader: Callable[[Path], object], path: Path, name: str) -> list[str]:
    """Why a file cannot be read."""
    try:
        reader(path)
    except (ValueError, RuntimeError, TypeError) as error:
        return [f"{name} is refused: {str(error).replace(str(path), name)}"]
    return []
