import io
import zipfile

import pytest
import torch

from bertswin_ext.programs.archive import archive_records, write_archive

RECORDS = {"data/0": b"\x00" * 100, "b.json": b"{}", "a.py": b"x"}


def test_there_and_back():
    read = archive_records(write_archive(RECORDS, version=3))
    assert {name: read[name] for name in RECORDS} == RECORDS
    assert read["version"].strip() == b"3"


def test_the_order_of_names_does_not_matter():
    assert write_archive(RECORDS, 3) == write_archive(dict(sorted(RECORDS.items())), 3)


def test_what_torch_writes_by_itself_is_not_written_twice():
    again = write_archive(archive_records(write_archive(RECORDS, 3)), 3)
    assert again == write_archive(RECORDS, 3)


def test_a_file_of_torch():
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer)
    assert "data.pkl" in archive_records(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"text", write_archive(RECORDS, 3)[:-30]])
def test_no_archive(data):
    with pytest.raises(ValueError, match="no archive of torch, or torn"):
        archive_records(data)


def test_an_archive_of_something_else():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match="no archive of torch, or torn"):
        archive_records(buffer.getvalue())


def test_a_changed_byte():
    data = bytearray(write_archive(RECORDS, 3))
    data[data.index(b"\x00" * 100) + 50] = 1
    with pytest.raises(ValueError, match="data/0 in it is damaged"):
        archive_records(bytes(data))
