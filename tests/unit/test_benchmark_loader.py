"""The loaders' benchmark on small volumes: what it compares is comparable, and its tables hold every row."""

import sys
from pathlib import Path

import pytest
import torch

from bertswin_ext.voxels import VOXELS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the benchmark needs Linux")


@pytest.fixture(scope="module")
def loader():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import loader

        yield loader
    for name in ("loader", "crop_loaders", "tables"):
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def files(loader, tmp_path_factory):
    import crop_loaders

    return crop_loaders.write_volumes(tmp_path_factory.mktemp("volumes"), loader.QUICK, 2)


@pytest.fixture(scope="module")
def pipelines(loader, files):
    return loader.make_pipelines(loader.make_datasets(files, loader.QUICK), loader.QUICK, workers=0)


def test_both_make_the_same_crop_of_the_same_numbers(loader, files):
    ours, theirs = loader.agreement(*files[0], loader.QUICK)
    assert ours.shape == theirs.shape == (1, 64, 64, 64)
    assert ours.dtype == theirs.dtype == torch.float32
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-3


def test_every_pipeline_makes_standardized_crops(pipelines, loader):
    low, high = VOXELS.normalized(VOXELS.min_hu), VOXELS.normalized(VOXELS.max_hu)
    for name in (loader.PLAIN, loader.BEST, loader.OURS):
        image = next(pipelines[name].batches())["image"]
        assert image.shape == (2, 1, 64, 64, 64), name
        assert image.dtype == torch.float32, name
        assert low <= image.min() < -1, name
        assert 3 < image.max() <= high, name


def test_what_a_worker_hands_to_a_gpu_is_a_box_of_the_stored_type(pipelines, loader):
    sample = next(iter(next(pipelines[loader.LOADER_ONLY].batches())))
    assert sample["image"].dtype == torch.int16
    assert all(64 / 1.1 < edge <= 100 for edge in sample["image"].shape[1:])


def test_boxes_are_finished_after_the_loader_where_there_is_a_gpu(loader, files):
    import crop_loaders

    datasets = loader.make_datasets(files, loader.QUICK, "cpu:0")
    for name in (loader.OURS, crop_loaders.DISTURBED):
        batch = next(loader.make_pipelines(datasets, loader.QUICK, 0, "cpu:0")[name].batches())
        assert batch["image"].shape == batch["input"].shape == (2, 1, 64, 64, 64)
        assert torch.equal(batch["image"], batch["input"]) == (name == loader.OURS)
    assert loader.PLAIN not in loader.make_pipelines(datasets, loader.QUICK, 2, "cpu:0")


def test_the_tables_have_a_row_for_every_pipeline(pipelines, loader):
    times = loader.take_turns(pipelines, rounds=1)
    rows = loader.time_table(times).splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in rows[2:]] == list(loader.PIPELINES)
    assert all(row.count("|") == rows[0].count("|") for row in rows)
    assert loader.crop_table(pipelines).count("2 x 1 x 64 x 64 x 64 | float32") == 3


def test_every_turn_goes_on_where_the_last_one_ended(loader, files):
    import crop_loaders

    portion = crop_loaders.Portion(iter(range(10)), 3)
    assert [list(portion), list(portion), len(portion)] == [[0, 1, 2], [3, 4, 5], 3]


def test_memory_is_watched_until_the_call_ends(loader):
    def call():
        blocks.append(torch.ones(25_000_000))
        loader.time.sleep(0.5)
        blocks.clear()

    blocks = []
    memory = loader.watched(call)
    assert memory.peak - memory.begin == pytest.approx(100, abs=30)


def test_what_a_further_volume_costs_is_told(loader):
    def rows(name, few, many):
        return [(name, 4, 2, 8, loader.Memory(100, few)), (name, 8, 2, 8, loader.Memory(100, many))]

    text = loader.memory_table([*rows(loader.PLAIN, 1400, 2400), *rows(loader.OURS, 800, 801)])
    assert "| MONAI, plain | 8 | 2 | 8 | 2400 | 2300 |" in text
    assert "- MONAI, plain: 250.0 MB for every further volume, from 4 to 8" in text
    assert "- ours: 0.2 MB for every further volume, from 4 to 8" in text


def test_large_data_sets_are_many_names_for_few_files(loader, files):
    import crop_loaders

    links = crop_loaders.linked([stored for stored, _ in files], 7)
    assert len(set(links)) == 7
    assert {link.stat().st_ino for link in links} == {stored.stat().st_ino for stored, _ in files}
