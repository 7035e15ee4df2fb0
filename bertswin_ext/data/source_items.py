"""What lies at a place that a user names: a volume, a folder of volumes or a datalist, as items."""

from __future__ import annotations

from pathlib import Path

from bertswin_ext.data.datalist import Item, load_items
from bertswin_ext.data.reading.volume_search import find_volumes, volume_stem

__all__ = ["source_items"]


def source_items(source: str | Path, argument: str = "source") -> list[Item]:
    """All volumes of a source, without a split.

    Args:
        source: a volume file, a folder of volumes (see `find_volumes`) or of one DICOM series, a ``.json`` datalist, or
            a folder that holds a ``datalist.json``.
        argument: what the user calls the source, for messages.

    Returns:
        Items as in a datalist; ``folder`` is where an image lies below the source, empty if it does not.

    Raises:
        ValueError: there is nothing there, there are no volumes, or the datalist has faults.

    Example:
        >>> [item["patient"] for item in source_items("scans")]  # doctest: +SKIP
        ['patient_a', 'patient_b']
    """
    path = Path(source).expanduser().resolve()
    if path.is_dir() and (path / "datalist.json").is_file():
        path = path / "datalist.json"
    return [_with_folder(item, path) for item in _items(path, argument)]


def _items(source: Path, argument: str) -> list[Item]:
    """Items of a datalist, a folder or a file."""
    if not source.exists():
        raise ValueError(f"`{argument}` {source} does not exist. Give a volume, a folder of volumes, or a datalist.")
    if source.suffix == ".json":
        return [item for section in load_items(source).values() for item in section]
    if source.is_file():
        return [{"image": str(source), "patient": volume_stem(source)}]
    return [{"image": str(path), "patient": patient} for path, patient in find_volumes(source)]


def _with_folder(item: Item, source: Path) -> Item:
    """An item that says where it lies; nothing if that is not below the source."""
    root, folder = source if source.is_dir() else source.parent, Path(item["image"]).parent
    return {**item, "folder": str(folder.relative_to(root)) if folder.is_relative_to(root) else ""}
