"""ZIP files: unpacked whole inside their folder, or refused by name with nothing left behind."""

import stat
import zipfile

import numpy as np
import pytest

from bertswin_ext.data.reading.volume_search import find_volumes
from bertswin_ext.data.reading.zipped_series import ZipLimits, is_zip, unzip
from bertswin_ext.errors import VolumeError
from tests.unit.data.reading.dicom_files import write_series
from tests.unit.data.worlds import error, hounsfield, load


def zipped(path, *names, content=b"scan", **entries):
    """A ZIP file of some names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
        for name, mode in entries.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, "/etc/passwd")
    return path


def refusal(path, limits=None):
    """Why a ZIP file is refused; it must leave nothing."""
    folder = path.parent / "work"
    with pytest.raises(VolumeError) as caught:
        unzip(path, folder, limits)
    assert list(folder.iterdir()) == []
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_zipped_series_is_the_series(tmp_path):
    series = write_series(tmp_path / "ct", np.arange(6)[:, None] * [0.0, 0.0, 2.0], hounsfield)
    with zipfile.ZipFile(tmp_path / "Anna.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(series.iterdir()):
            archive.write(file, f"export/ct/{file.name}")
    assert is_zip(tmp_path / "Anna.ZIP")
    assert not is_zip(series)
    assert not is_zip(tmp_path / "gone.zip")
    folder = unzip(tmp_path / "Anna.ZIP", tmp_path / "work")
    assert folder == tmp_path / "work" / "Anna"
    assert find_volumes(folder) == [(folder / "export" / "ct", "export")]
    volume = load(folder / "export" / "ct")
    assert volume.shape == (1, 12, 10, 6)
    assert error(volume) <= 0.51


def test_slices_at_the_top_are_a_series_of_the_file_s_name(tmp_path):
    folder = unzip(zipped(tmp_path / "anna.zip", "1.dcm", "2.dcm"), tmp_path)
    assert find_volumes(folder) == [(folder, "anna")]


def test_clutter_is_left_out(tmp_path):
    path = zipped(tmp_path / "a.zip", "ct/1.dcm", "__MACOSX/ct/._1.dcm", "ct/.DS_Store", "empty/")
    folder = unzip(path, tmp_path / "work")
    assert [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()] == ["ct/1.dcm"]


def test_backslashes_are_folders(tmp_path):
    folder = unzip(zipped(tmp_path / "a.zip", "ct\\1.dcm"), tmp_path)
    assert (folder / "ct" / "1.dcm").read_bytes() == b"scan"


@pytest.mark.parametrize(
    "name",
    ["../1.dcm", "ct/../../1.dcm", "/etc/1.dcm", "..\\1.dcm", "\\1.dcm", "C:\\1.dcm", "c:1.dcm", "ct/..", "../.hidden"],
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    message = refusal(zipped(tmp_path / "a.zip", "ct/1.dcm", name))
    assert f"1 fault in {tmp_path / 'a.zip'}:\n  - {name!r} leads out of the folder\nNothing was unpacked." in message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.zip", "work"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    assert "'link.dcm' is a link or a device" in refusal(
        zipped(tmp_path / "a.zip", "1.dcm", **{"link.dcm": kind | 0o777})
    )


def test_a_zip_in_a_zip_is_refused(tmp_path):
    assert "'b/inner.Zip' is a ZIP file itself: unpack it first" in refusal(zipped(tmp_path / "a.zip", "b/inner.Zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["ct/1.dcm", "CT/1.DCM", "ct"])
def test_names_that_come_twice_are_refused(tmp_path, again):
    assert f"{again!r} is there twice" in refusal(zipped(tmp_path / "a.zip", "ct/1.dcm", again))


def test_an_encrypted_member_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm")
    data = bytearray(path.read_bytes())
    data[6] |= 1  # flags in the member's own header ...
    data[data.find(b"PK\x01\x02") + 8] |= 1  # ... and in the directory at the end
    path.write_bytes(data)
    assert "'1.dcm' is encrypted" in refusal(path)


def test_an_unknown_compression_is_named(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm")
    data = bytearray(path.read_bytes())
    data[8] = data[data.find(b"PK\x01\x02") + 10] = 97
    path.write_bytes(data)
    assert "its compression is not known" in refusal(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_file_cut_off_is_refused(tmp_path, keep):
    content = np.random.default_rng(0).bytes(20_000)
    path = zipped(tmp_path / "a.zip", "1.dcm", content=content)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    assert "it is no ZIP file, damaged or cut off" in refusal(path)


def test_a_damaged_member_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm", content=np.random.default_rng(0).bytes(20_000))
    data = bytearray(path.read_bytes())
    data[5_000] ^= 0xFF
    path.write_bytes(data)
    assert "damaged or cut off (Bad CRC-32 for file '1.dcm')" in refusal(path)


def test_a_bomb_is_refused_before_anything_is_written(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm", "2.dcm", content=bytes(1 << 20))
    assert path.stat().st_size < 10_000
    message = refusal(path, ZipLimits(max_bytes=(2 << 20) - 1, max_files=1))
    assert "it holds 2 files, at most 1 are unpacked (`max_files` of `ZipLimits`)" in message
    assert "it unpacks to 0.00195 GiB, at most 0.00195 GiB are unpacked (`max_bytes` of `ZipLimits`)" in message
    assert unzip(path, tmp_path / "work", ZipLimits(max_bytes=2 << 20, max_files=2)).is_dir()


def test_a_member_longer_than_it_says_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", "1.dcm", content=bytes(1 << 20))
    data = bytearray(path.read_bytes())
    entry = data.find(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    assert "damaged or cut off" in refusal(path, ZipLimits(max_bytes=5000))


def test_all_faults_are_listed_but_not_without_end(tmp_path):
    message = refusal(zipped(tmp_path / "a.zip", *[f"../{n}.dcm" for n in range(30)], "b.zip"))
    assert message.count("leads out of the folder") == 10
    assert "  - and 21 more" in message


def test_an_empty_zip_is_refused(tmp_path):
    assert "the ZIP file is empty" in refusal(zipped(tmp_path / "a.zip"))
    assert "the ZIP file is empty" in refusal(zipped(tmp_path / "b.zip", "__MACOSX/x", "folder/"))


def test_limits_must_be_above_zero():
    with pytest.raises(ValueError, match="must be above 0, got 0 and 5"):
        ZipLimits(max_bytes=0, max_files=5)
