"""From a folder of raw scans to a store of regions that training reads: all scans, in parallel, again and again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bertswin_ext.data.preparation.label_maps import LabelMaps
from bertswin_ext.data.preparation.landmarks import Landmarks, load_landmarks
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.scan_preparation import NO_SPACE, prepare_scan, refused
from bertswin_ext.data.preparation.scan_report import verdict_line, write_report
from bertswin_ext.data.preparation.scans import Scan, content_sha256, find_scans, source_files
from bertswin_ext.data.preparation.store import STORE_VERSION, Record, Store
from bertswin_ext.errors import listed
from bertswin_ext.hardware import usable_cores
from bertswin_ext.workers import in_workers

__all__ = ["Prepared", "prepare"]

logger = logging.getLogger(__name__)

_MOST_WORKERS = 8
_NAMED = 5


@dataclass(frozen=True)
class Prepared:
    """What came of a preparation.

    Attributes:
        datalist: path of the datalist.
        report: path of ``report.html``.
        records: one for each scan, in the order of their names; see `scan_report`.
    """

    datalist: Path
    report: Path
    records: list[Record]

    @property
    def refused(self) -> list[Record]:
        """Records of the scans that could not be used."""
        return [record for record in self.records if record["verdict"] == "refused"]


def prepare(
    source: str | Path,
    directory: str | Path,
    settings: PreparationSettings | None = None,
    landmarks: str | Path | None = None,
    labels: str | Path | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Turn scans into a store: check each, cut the regions round its joints, and write datalist and report.

    A scan that was prepared before, from the same bytes with the same settings and centres, is left alone. A scan that
    cannot be used is in the report with its reason and stops nothing. The store is the same whether it was written in
    one go or in many, by one process or several. While it is written, its datalist names only what does not change.

    Args:
        source: a folder of scans, a datalist, or one volume file; see `find_scans`.
        directory: the store.
        settings: what to store; the recipe's by default.
        landmarks: a ``.mrk.json`` or ``.csv`` file, or a folder of ``.mrk.json`` files, with the joints' centres.
        labels: folder of label maps, see `LabelMaps`.
        num_workers: processes; as many as there are cores, at most 8, by default.
        progress: show a progress bar.

    Returns:
        Paths and records.

    Raises:
        ValueError: the input, the landmarks or the output cannot be used at all.
        OSError: the disk is full; what is done is kept.

    Example:
        >>> import tempfile
        >>> from bertswin_ext.data.phantoms.phantom_files import write_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     raw = write_phantoms(folder + "/raw", count=1, size=32, spacing_mm=1.6)
        ...     settings = PreparationSettings(spacing_mm=1.6, roi_size=24)
        ...     prepared = prepare(raw, folder + "/store", settings, num_workers=1, progress=False)
        >>> prepared.records[0]["items"][0]["image"], prepared.refused
        ('images/image_0000-3eaf8d6cf9_left.nii', [])
    """
    settings, workers = settings or PreparationSettings(), _workers(num_workers)
    store = Store(directory)
    scans = _with_knowledge(find_scans(source), landmarks, labels)
    _check_apart(scans, store.directory)
    with store.locked():
        _check_own(store)
        records = {scan.name: record for scan in scans if (record := _unchanged(store, scan, settings))}
        waiting = [scan for scan in scans if scan.name not in records]
        if records:
            logger.info("%d of %d scans are unchanged since the last run", len(records), len(scans))
        if waiting:
            store.write_datalist([records[scan.name] for scan in scans if scan.name in records], settings.to_json())
        with tqdm(total=len(waiting), unit="scan", disable=None if progress else True) as bar:
            for record in _prepare_all(waiting, settings, store, workers):
                records[record["name"]] = record
                if record["verdict"] != "ok":
                    tqdm.write(verdict_line(record))
                bar.update()
        return _published(store, [records[scan.name] for scan in scans], settings)


# --- what is to be done ---


def _with_knowledge(scans: Sequence[Scan], landmarks: str | Path | None, labels: str | Path | None) -> list[Scan]:
    """Give every scan its landmarks and its label map, or the fault of theirs; both come before a datalist's."""
    if landmarks is not None:
        scans = _with_landmarks(scans, landmarks)
    if labels is not None:
        scans = _with_labels(scans, LabelMaps(labels, [scan.scan for scan in scans]))
    return list(scans)


def _with_landmarks(scans: Sequence[Scan], path: str | Path) -> list[Scan]:
    """Give every scan its landmarks."""
    points = load_landmarks(path, len(scans) == 1)
    for scan in scans:
        _marked(scan, points)
    if unused := points.unused():
        logger.warning("%s", listed([f"{entry} belongs to no scan" for entry in unused], str(path)))
    # only now is it known which landmarks fit several scans
    return [_marked(scan, points) for scan in scans]


def _marked(scan: Scan, points: Landmarks) -> Scan:
    """A scan with its landmarks."""
    try:
        return replace(scan, joints=tuple(points.of(scan.path, scan.patient)) or scan.joints)
    except ValueError as error:
        return replace(scan, fault=str(error))


def _with_labels(scans: Sequence[Scan], maps: LabelMaps) -> list[Scan]:
    """Give every scan its label map."""
    known, without = [], []
    for scan in scans:
        try:
            label = maps.of(scan.scan, scan.path)
            known.append(replace(scan, label=label or scan.label))
            without += [] if known[-1].label else [scan.scan]
        except ValueError as error:
            known.append(replace(scan, fault=scan.fault or str(error)))
    if without:
        logger.warning("%d scans have no label map: %s", len(without), _first(without))
    return known


def _check_apart(scans: Sequence[Scan], directory: Path) -> None:
    """Raise if the store would be prepared from itself."""
    store = Path(os.path.realpath(directory))
    inside = [scan.scan for scan in scans if Path(os.path.realpath(scan.path)).is_relative_to(store)]
    if inside:
        raise ValueError(
            f"`input` and `output` must not be the same: {inside[0]} lies in {directory}. Give another output."
        )


def _check_own(store: Store) -> None:
    """Raise if a store was made of something else than scans."""
    if "source" in store.settings():
        raise ValueError(
            f"`output` {store.directory} holds the import of {store.settings()['source']}. Give a new or empty folder."
        )


def _workers(num_workers: int | None) -> int:
    """Number of processes."""
    if num_workers is None:
        return min(_MOST_WORKERS, usable_cores())
    if num_workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {num_workers}. Leave it out for one for each core.")
    return num_workers


# --- what is done already ---


def _cause(scan: Scan, settings: PreparationSettings) -> dict[str, Any]:
    """All that decides what is stored of a scan, except the bytes of its files."""
    head = {"version": STORE_VERSION, "settings": settings.to_json(), "patient": scan.patient, "section": scan.section}
    joints = [[joint.joint, list(joint.center_mm)] for joint in scan.joints]
    return {**head, "joints": joints, "sides": list(scan.sides), "has_label": scan.label is not None, **scan.extra}


def _files(scan: Scan) -> list[Path]:
    """Files of a scan and of its label map."""
    return source_files(scan.path) + (source_files(scan.label) if scan.label else [])


def _stamps(files: Iterable[Path]) -> list[list[Any]]:
    """Names, sizes and times of files, by which unchanged ones are known without reading them."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _state(scan: Scan, before: Record | None = None) -> dict[str, Any]:
    """What is known of the files of a scan, read only if they may have changed; nothing if they cannot be read."""
    try:
        files = _files(scan)
        # the stamps come first: what changes meanwhile is seen in the next run
        stamps = _stamps(files)
        if before is not None and before["stamps"] == stamps:
            return {"stamps": stamps, "source_sha256": before["source_sha256"]}
        return {"stamps": stamps, "source_sha256": content_sha256(files)}
    except OSError:
        return {"stamps": [], "source_sha256": ""}


def _unchanged(store: Store, scan: Scan, settings: PreparationSettings) -> Record | None:
    """The record of a scan that need not be prepared again; refused ones are tried again."""
    record = store.record(scan.name)
    if record is None or record["verdict"] == "refused" or record["cause"] != _cause(scan, settings) or scan.fault:
        return None
    state = _state(scan, record)
    if state["source_sha256"] != record["source_sha256"]:
        return None
    record |= {**state, "items": [_from(item, scan) for item in record["items"]]}
    store.write_record(record)
    return record


def _from(item: dict[str, Any], scan: Scan) -> dict[str, Any]:
    """An item whose centre is where it was, but may be known from another line or file."""
    origins = {joint.joint: joint.origin for joint in scan.joints}
    return item | {"center_origin": origins[item["joint"]]} if item.get("joint") in origins else item


# --- doing it ---


def _prepare_all(scans: Sequence[Scan], settings: PreparationSettings, store: Store, workers: int) -> Iterable[Record]:
    """Prepare scans, in processes of their own where there are several of both."""
    if workers == 1 or len(scans) < 2:
        for scan in scans:
            yield _prepare_one(scan, settings, store)
        return
    for scan, record in in_workers(_prepare_one, scans, (settings, store), workers):
        if record is None:
            record = _killed(scan)
            store.write_record(record)
        yield record


def _prepare_one(scan: Scan, settings: PreparationSettings, store: Store) -> Record:
    """Prepare one scan and write its record."""
    try:
        store.forget(scan.name)
        state = _state(scan)
        record = prepare_scan(scan, settings, store.directory) | {"cause": _cause(scan, settings), **state}
        store.write_record(record)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise OSError(
            error.errno,
            f"no space left in {store.directory} while preparing {scan.scan}; nothing half-written is left. Free some "
            "and run the same command again: it goes on where it stopped",
        ) from error
    return record


def _killed(scan: Scan) -> Record:
    """The record of a scan whose process dies again and again."""
    return refused(
        scan,
        f"{scan.path}: its process was killed twice, the second time when it was alone; most likely the memory does "
        "not suffice for it. Give the computer more, or leave the scan out.",
    )


# --- publishing ---


def _published(store: Store, records: list[Record], settings: PreparationSettings) -> Prepared:
    """Write datalist and report."""
    gone = sorted(store.names() - {record["name"] for record in records})
    if gone:
        logger.warning(
            "%d scans of earlier runs are not in the input any more; their volumes stay in the store, but not in the "
            "datalist: %s",
            len(gone),
            _first(gone),
        )
    for patients in _twins(records):
        logger.warning(
            "the patients %s have the same voxels: a split by patient does not keep them apart. Remove the copies, or "
            "give them one patient",
            ", ".join(patients),
        )
    datalist = store.write_datalist(records, settings.to_json())
    summary = {name: str(value) for name, value in settings.to_json().items()}
    return Prepared(datalist, write_report(records, store.directory, summary)[1], records)


def _twins(records: Iterable[Record]) -> Iterator[list[str]]:
    """Patients that share a region to the last voxel, most likely one patient under several names."""
    owners: dict[str, set[str]] = {}
    for item in [item for record in records for item in record["items"]]:
        owners.setdefault(item["sha256"], set()).add(item["patient"])
    yield from (sorted(patients) for patients in owners.values() if len(patients) > 1)


def _first(names: Sequence[str]) -> str:
    """The first of some names."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
