"""The folder that prepared volumes lie in: who may write to it, what is done already, and its datalist."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bertswin_ext.data.datalist import JOINTS
from bertswin_ext.errors import VolumeError
from bertswin_ext.files import written_whole
from bertswin_ext.stored_volume import open_stored_volume

__all__ = ["STORE_VERSION", "Record", "Store", "is_store"]

STORE_VERSION = 1  # raise it whenever the same scan and settings give other volumes

_DATALIST, _LOCK, _RECORDS = "datalist.json", ".lock", "scans"
_VOLUMES = {"image": "images", "label": "labels"}
_THUMBNAILS = "thumbnails"

Record = dict[str, Any]


class Store:
    """A folder of prepared volumes: ``images``, ``labels``, ``thumbnails``, ``scans`` (the records), ``datalist.json``.

    A record is written after the volumes that it names, and removed before they are written again: what has a record
    is whole, whatever happened in between.

    Args:
        directory: the folder; made when something is written.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(os.path.abspath(Path(directory).expanduser()))
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(f"`output` {self.directory} is a file. Give a folder, new or of an earlier run.")
        found = sorted(_visible(self.directory))
        if found and not is_store(self.directory):
            raise ValueError(
                f"`output` {self.directory} holds something else ({', '.join(found[:3])}"
                f"{', ...' if len(found) > 3 else ''}). Give a new or empty folder, or that of an earlier run."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that writes; what a killed writer left half-written is removed.

        Raises:
            ValueError: another process is writing.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another `prepare` is writing to {self.directory}. Wait for it, or give another `--output`."
            ) from None
        try:
            self._remove_unfinished()
            yield
        finally:
            self._remove_unfinished()
            lock.release()

    def record(self, name: str) -> Record | None:
        """The record of a scan, if all that it names is still there."""
        try:
            record: Record = json.loads(self._path(name).read_text(encoding="utf-8"))
            for item in record["items"]:
                for key in _VOLUMES.keys() & item.keys():
                    open_stored_volume(self.directory / item[key])
            is_drawn = record["thumbnail"] is None or (self.directory / record["thumbnail"]).is_file()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, VolumeError):
            return None
        return record if is_drawn else None

    def forget(self, name: str) -> None:
        """Remove the record of a scan whose volumes are about to change."""
        self._path(name).unlink(missing_ok=True)

    def write_record(self, record: Record) -> None:
        """Write a record, and remove files of earlier ones of the same scan that this one does not name."""
        named = {item[key] for item in record["items"] for key in _VOLUMES.keys() & item.keys()}
        for path in _possible_files(record["name"]) - named - {record["thumbnail"]}:
            (self.directory / path).unlink(missing_ok=True)
        _write_json(self._path(record["name"]), record)

    def names(self) -> set[str]:
        """Names of the scans that have a record."""
        return {path.stem for path in (self.directory / _RECORDS).glob("*.json")}

    def settings(self) -> dict[str, Any]:
        """What the volumes of the datalist were prepared with; empty before there is one."""
        return _settings(self.directory) or {}

    def write_datalist(self, records: Sequence[Record], settings: dict[str, Any]) -> Path:
        """Write the datalist of some scans, unless it says this already.

        Args:
            records: their records.
            settings: what the volumes were prepared with.

        Returns:
            Its path.
        """
        lists: dict[str, list[Any]] = {"training": [], "validation": []}
        for record in records:
            lists[record["section"]] += record["items"]
        path = self.directory / _DATALIST
        _write_json(path, {"prepared": {"version": STORE_VERSION, **settings}, **lists})
        return path

    def _path(self, name: str) -> Path:
        """Where the record of a scan lies."""
        return self.directory / _RECORDS / f"{name}.json"

    def _remove_unfinished(self) -> None:
        """Remove temporary files; with the lock held nobody is writing them."""
        for folder in ("", _RECORDS, _THUMBNAILS, *_VOLUMES.values()):
            for path in (self.directory / folder).glob(".*.tmp"):
                path.unlink(missing_ok=True)


def is_store(folder: Path) -> bool:
    """Tell whether a folder is a store, whole or unfinished."""
    if not (folder / _DATALIST).is_file():
        return (folder / _LOCK).is_file() and (folder / _RECORDS).is_dir()
    return _settings(folder) is not None


def _settings(folder: Path) -> dict[str, Any] | None:
    """What stands in the datalist of a store; None if there is no such datalist."""
    try:
        content = json.loads((folder / _DATALIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    settings = content.get("prepared") if isinstance(content, dict) else None
    return settings if isinstance(settings, dict) else None


def _visible(folder: Path) -> set[str]:
    """Names in a folder, without hidden ones."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()


def _possible_files(name: str) -> set[str]:
    """All files that a scan may have, whatever its joints."""
    volumes = {
        f"{folder}/{name}{joint}.nii" for folder in _VOLUMES.values() for joint in ("", *(f"_{j}" for j in JOINTS))
    }
    return {*volumes, f"{_THUMBNAILS}/{name}.png"}


def _write_json(path: Path, content: Any) -> None:
    """Write JSON whole, the same bytes for the same content, unless it is there already."""
    # a file name that is no text holds lone surrogates, which become the escapes that JSON has for them
    data = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode("utf-8", errors="backslashreplace")
    if path.is_file() and path.read_bytes() == data:
        return
    with written_whole(path) as temporary:
        temporary.write_bytes(data)
