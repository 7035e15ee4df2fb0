"""A store of the authors' HDF5 file: its datalist, the same file again, and whatever else the folder may hold."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bertswin_ext.data.datalist import load_datalist
from bertswin_ext.data.preparation import hdf5_import
from bertswin_ext.data.preparation.hdf5_import import import_hdf5, import_store
from bertswin_ext.data.preparation.store import STORE_VERSION, Store
from tests.unit.data.preparation.hdf5_files import needed_h5py, write_two_studies


@pytest.fixture
def h5py():
    return needed_h5py()


@pytest.fixture
def source(tmp_path):
    return write_two_studies(tmp_path / "tmj.h5")


def checksums(folder):
    """All visible files of a folder."""
    files = [path for path in Path(folder).rglob("[!.]*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def content(datalist):
    return json.loads(datalist.read_text(encoding="utf-8"))


def test_a_store_holds_what_the_import_gives(source, tmp_path):
    datalist, found = import_store(source, tmp_path / "store", "RAS", spacing_mm=0.3, fov_radius_mm=60)
    alone = import_hdf5(source, tmp_path / "alone", "RAS", spacing_mm=0.3, fov_radius_mm=60)
    assert (found.items, found.faults, found.notices) == (alone.items, [], [])
    assert datalist == tmp_path / "store" / "datalist.json"
    written = content(datalist)
    sample = written["prepared"].pop("source_sample_sha256")
    assert len(sample) == 64
    assert written == {
        "prepared": {
            "version": STORE_VERSION,
            "spacing_mm": 0.3,
            "axes": "RAS",
            "fov_radius_mm": 60,
            "source": "tmj.h5",
        },
        "training": alone.items,
        "validation": [],
    }
    volumes = checksums(tmp_path / "store")
    del volumes["datalist.json"]
    assert volumes == checksums(tmp_path / "alone")
    assert len(volumes) == 6


def test_the_datalist_can_be_trained_with(source, tmp_path):
    datalist = load_datalist(import_store(source, tmp_path / "store")[0])
    items = sorted([*datalist.training, *datalist.validation], key=lambda item: item["source"])
    assert [(item["patient"], item["joint"]) for item in items] == [("P1", "left"), ("P1", "right"), ("P2", "right")]
    assert all(Path(item["image"]).is_file() and Path(item["label"]).is_file() for item in items)
    assert datalist.prepared["spacing_mm"] == 0.2


def test_faults_are_handed_on(source, tmp_path, h5py):
    with h5py.File(source, "a") as file:
        del file["a/left_joint/roi_image"]
        del file["b"].attrs["patient_id"]
    datalist, found = import_store(source, tmp_path / "store")
    assert (len(found.faults), len(found.notices)) == (1, 1)
    assert len(content(datalist)["training"]) == 2


def test_the_same_file_is_imported_again(source, tmp_path):
    import_store(source, tmp_path / "store")
    before = checksums(tmp_path / "store")
    import_store(source, tmp_path / "store")
    assert checksums(tmp_path / "store") == before
    (tmp_path / "moved").mkdir()
    elsewhere = shutil.copy(source, tmp_path / "moved")
    datalist, _ = import_store(elsewhere, tmp_path / "store", "RAS")
    after = checksums(tmp_path / "store")
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)
    assert content(datalist)["prepared"]["axes"] == "RAS"


def test_a_store_holds_one_file(source, tmp_path, h5py):
    import_store(source, tmp_path / "store")
    before = checksums(tmp_path / "store")
    other = shutil.copy(source, tmp_path / "other.h5")
    with pytest.raises(ValueError, match=r"store holds the import of another file, tmj\.h5\. Give a new or empty"):
        import_store(other, tmp_path / "store")
    (tmp_path / "center2").mkdir()
    namesake = Path(shutil.copy(source, tmp_path / "center2"))
    with h5py.File(namesake, "a") as file:
        file["a/left_joint/roi_image"][0, 0, 0] += 1
    assert namesake.stat().st_size == source.stat().st_size
    with pytest.raises(ValueError, match=r"another file, a tmj\.h5 with other content"):
        import_store(namesake, tmp_path / "store")
    assert checksums(tmp_path / "store") == before


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_store_of_prepared_scans_stays_as_it_is(is_finished, source, tmp_path):
    store = Store(tmp_path / "store")
    with store.locked():
        store.write_record({"name": "scan", "items": [], "thumbnail": None})
        if is_finished:
            store.write_datalist([], {"spacing_mm": 0.2})
    before = checksums(tmp_path / "store")
    with pytest.raises(ValueError, match="store holds scans that `prepare` has stored"):
        import_store(source, tmp_path / "store")
    assert checksums(tmp_path / "store") == before


def test_a_folder_with_other_things_stays_as_it_is(source, tmp_path):
    with pytest.raises(ValueError, match="holds something else"):
        import_store(source, tmp_path)
    assert set(checksums(tmp_path)) == {"tmj.h5"}


def test_a_file_that_cannot_be_read_leaves_no_folder(source, tmp_path):
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(ValueError, match="must be a complete HDF5 file"):
        import_store(source, tmp_path / "store")
    with pytest.raises(ValueError, match="`spacing_mm` must be above 0"):
        import_store(source, tmp_path / "store", spacing_mm=0)
    assert not (tmp_path / "store").exists()


def test_a_store_that_is_written_to_is_left_alone(source, tmp_path):
    with Store(tmp_path / "store").locked(), pytest.raises(ValueError, match="is writing to"):
        import_store(source, tmp_path / "store")
    assert checksums(tmp_path / "store") == {}


def test_an_import_that_breaks_off_goes_on_later(source, tmp_path, monkeypatch):
    expected = checksums(import_store(source, tmp_path / "whole")[0].parent)
    write = hdf5_import.write_stored_volume

    def failing(path, *volume):
        if path.name == "tmj_a_right.nii":
            raise OSError("the disk has gone")
        write(path, *volume)

    import_store(source, tmp_path / "store", "RAS")
    with monkeypatch.context() as patch:
        patch.setattr(hdf5_import, "write_stored_volume", failing)
        with pytest.raises(OSError, match="the disk has gone"):
            import_store(source, tmp_path / "store")
    # no item names a volume that may be of the one import or the other
    assert content(tmp_path / "store" / "datalist.json")["training"] == []
    other = shutil.copy(source, tmp_path / "other.h5")
    with pytest.raises(ValueError, match="holds the import of another file"):
        import_store(other, tmp_path / "store")
    import_store(source, tmp_path / "store")
    assert checksums(tmp_path / "store") == expected


def test_files_of_any_size_are_told_apart(tmp_path):
    """Smaller than a sample, a few samples, more than are taken: a change at either end is seen."""
    for size in (0, 10, 1 << 17, (1 << 24) + 1):
        data, path, found = bytearray(size), tmp_path / f"{size}", set()
        for place in (None, 0, -1) if size else (None,):
            if place is not None:
                data[place] += 1
            path.write_bytes(data)
            found.add(hdf5_import._sample_sha256(path))
        assert len(found) == (3 if size else 1)
