"""The ZIP archives that torch writes, checked before they are read."""

from __future__ import annotations

import io
import zipfile

import torch

__all__ = ["archive_records", "write_archive"]

_WRITTEN_ANEW = ("version", "byteorder", ".data/")


def archive_records(data: bytes) -> dict[str, bytes]:
    """Contents of an archive by name, without its folder.

    Torch itself does not look at the checksums.

    Args:
        data: the file.

    Raises:
        ValueError: it is torn, damaged or no archive.

    Example:
        >>> archive_records(write_archive({"a": b"1"}, version=3))["a"]
        b'1'
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        records = {name: reader.get_record(name) for name in reader.get_all_records()}
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError, NotImplementedError) as error:
        raise ValueError(f"it is no archive of torch, or torn ({str(error).strip().splitlines()[0]}).") from error
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged.")
    return records


def write_archive(records: dict[str, bytes], version: int) -> bytes:
    """An archive of records, in the order of their names.

    Args:
        records: contents by name; those that torch writes by itself are left out.
        version: least version of torch's archives that the records need.
    """
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.set_min_version(version)
    for name in sorted(records):
        if not name.startswith(_WRITTEN_ANEW):
            writer.write_record(name, records[name], len(records[name]))
    writer.write_end_of_file()
    return buffer.getvalue()
