"""The training stream: orders, seeds, continuing, the cache."""

import traceback
from copy import deepcopy
from itertools import islice

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    Lambdad,
    MapTransform,
    RandAffined,
    RandCoarseDropoutd,
    RandFlipd,
    RandGaussianNoised,
    RandSpatialCropd,
)
from torch.utils.data import DataLoader

from bertswin_ext.data.stream import SeededDataset, ShareSampler, StreamSampler

NUM_ITEMS = 5


def take(count, start=0, **arguments):
    sampler = StreamSampler(**{"num_items": NUM_ITEMS, "seed": 3, **arguments})
    sampler.start = start
    return list(islice(sampler, count))


# --- sampler ---


def test_every_pass_is_a_permutation_of_its_own():
    indices = [index for index, _ in take(8 * NUM_ITEMS)]
    passes = [tuple(indices[at : at + NUM_ITEMS]) for at in range(0, len(indices), NUM_ITEMS)]
    assert all(sorted(order) == list(range(NUM_ITEMS)) for order in passes)
    assert len(set(passes)) > 4


def test_every_sample_has_a_seed_of_its_own():
    seeds = [seed for _, seed in take(100)]
    assert len(set(seeds)) == 100
    assert all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)


def test_the_seed_gives_the_stream():
    assert take(20) == take(20)
    assert take(20) != take(20, seed=4)
    assert {seed for _, seed in take(20)}.isdisjoint(seed for _, seed in take(20, seed=4))


def test_the_stream_is_frozen():
    """Another stream would silently belong to no checkpoint written so far."""
    assert take(6, num_items=3, seed=0) == [
        (2, 3964924996),
        (0, 901243215),
        (1, 3884055042),
        (1, 1680122868),
        (2, 1735430462),
        (0, 3507651262),
    ]


@pytest.mark.parametrize("start", [1, 4, 5, 6, 17])
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_continuing_equals_the_tail(start, num_ranks):
    for rank in range(num_ranks):
        whole = take(40, rank=rank, num_ranks=num_ranks)
        assert take(40 - start, start=start, rank=rank, num_ranks=num_ranks) == whole[start:]


@pytest.mark.parametrize("num_ranks", [2, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_ranks_share_what_one_rank_would_see(num_ranks, batch_size):
    steps = 9
    one = take(steps * num_ranks * batch_size)
    ranks = [take(steps * batch_size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    for step in range(steps):
        batch = one[step * num_ranks * batch_size : (step + 1) * num_ranks * batch_size]
        shared = [key for keys in ranks for key in keys[step * batch_size : (step + 1) * batch_size]]
        assert set(batch) == set(shared)
        assert len(batch) == len(shared)


def test_the_same_stream_may_be_continued():
    StreamSampler(5, seed=1).load_state_dict(StreamSampler(5, seed=1).state_dict())


def test_another_stream_is_refused():
    saved = StreamSampler(5, seed=1).state_dict()
    with pytest.raises(
        ValueError,
        match=r"stream differs from the checkpoint's: num_items 5 -> 6, seed 1 -> 2, num_ranks 1 -> 4\. Resume with "
        "the same datalist, seed and number of processes, or start a new run in another `output_dir`",
    ):
        StreamSampler(6, seed=2, num_ranks=4).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"seed None -> 1\. Resume"):
        StreamSampler(5, seed=1).load_state_dict({"num_items": 5, "num_ranks": 1})


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match=r"training set is empty\. Add volumes to the datalist, or lower `val_fract"):
        StreamSampler(0)


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_must_be_one_of_the_ranks(rank):
    with pytest.raises(ValueError, match=rf"`rank` must lie in \[0, 2\), got {rank}"):
        StreamSampler(3, rank=rank, num_ranks=2)


# --- dataset ---


def volume(number):
    """Voxels that all differ, within the volume and between volumes."""
    return MetaTensor(1000.0 * number + torch.arange(512.0).reshape(1, 8, 8, 8), meta={"filename_or_obj": f"{number}"})


class Load(MapTransform):
    """Stands for reading a file; some files are faulty."""

    def __init__(self, faults=()):
        super().__init__("image")
        self.faults = dict(faults)

    def __call__(self, data):
        if data["image"] in self.faults:
            raise self.faults[data["image"]]
        return {**data, "image": volume(data["image"])}


RANDOM = (RandSpatialCropd("image", roi_size=4, random_size=False), RandGaussianNoised("image", prob=0.5))


def make(transforms=RANDOM, count=4, faults=(), **arguments):
    data = [{"image": number} for number in range(count)]
    return SeededDataset(data, Compose([Load(faults), *transforms]), **arguments)


def values(sample):
    return sample["image"].as_tensor()


@pytest.mark.parametrize("cache_rate", [0.0, 0.5, 1.0])
def test_a_key_gives_the_same_sample_whatever_came_before(cache_rate):
    keys = [(0, 7), (3, 7), (3, 8)]
    fresh = [values(make(cache_rate=cache_rate)[key]) for key in keys]
    dataset = make(cache_rate=cache_rate)
    for key in [(1, 1), 2, (3, 9), *keys[::-1]]:
        dataset[key]
    again = [values(dataset[key]) for key in keys]
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True))
    assert not torch.equal(fresh[1], fresh[2])


def test_an_index_is_repeatable_and_has_a_seed_of_its_own():
    dataset = make([RandGaussianNoised("image", prob=1.0)])
    noise = [values(dataset[index]) - volume(index).as_tensor() for index in range(4)]
    again = [values(dataset[index]) - volume(index).as_tensor() for index in (3, 2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(noise, again, strict=True))
    assert not torch.allclose(noise[0], noise[1])
    other = make([RandGaussianNoised("image", prob=1.0)], seed=1)
    assert not torch.equal(values(other[0]), values(dataset[0]))
    assert torch.equal(values(dataset[-1]), values(dataset[3]))
    assert len(list(dataset)) == 4
    with pytest.raises(IndexError, match="out of range"):
        dataset[4]


@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_workers_do_not_matter(cache_rate):
    def batches(num_workers):
        sampler = StreamSampler(4, seed=0)
        loader = DataLoader(
            make(cache_rate=cache_rate),
            sampler=sampler,
            batch_size=3,
            num_workers=num_workers,
            collate_fn=lambda samples: torch.stack([values(sample) for sample in samples]),
        )
        return list(islice(loader, 5))

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(2), strict=True))


CHAINS = {
    "crop first": RANDOM,
    "no crop": (
        RandFlipd("image", prob=1.0),
        RandAffined("image", prob=1.0, translate_range=2),
        RandGaussianNoised("image", prob=1.0),
    ),
    "crop of the whole": (RandSpatialCropd("image", roi_size=8, random_size=False), RandGaussianNoised("image", 1.0)),
    "holes": (RandSpatialCropd("image", 4, random_size=False), RandCoarseDropoutd("image", 2, 2, prob=1.0)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_cache_is_never_modified(name):
    dataset = make(CHAINS[name])
    before = deepcopy(dataset._cache)
    for seed in range(20):
        dataset[seed % 4, seed]
    for item, was in zip(dataset._cache, before, strict=True):
        assert list(item) == list(was)
        assert torch.equal(values(item), values(was))
        assert torch.equal(item["image"].affine, was["image"].affine)
        assert item["image"].applied_operations == was["image"].applied_operations
        assert item["image"].meta.keys() == was["image"].meta.keys()


def test_all_faulty_volumes_in_one_error():
    faults = {0: ValueError("a.nii: every voxel is 0."), 2: OSError("c.nii: no such file"), 3: KeyError("label")}
    with pytest.raises(ValueError, match="3 of 4 volumes cannot be used") as caught:
        make(faults=faults)
    assert str(caught.value).splitlines() == [
        "3 of 4 volumes cannot be used:",
        "  - a.nii: every voxel is 0.",
        "  - c.nii: no such file",
        "  - 'label'",
        "`python -m bertswin_ext check --dataset ... --spacing_mm ... --img_size ...` lists every fault of a data set "
        "beforehand.",
    ]


def test_the_message_is_the_readers_and_not_that_of_the_library_below():
    def load(number):
        try:
            raise OSError("gzip: bad checksum")
        except OSError as error:
            raise ValueError(f"{number}.nii.gz: the file cannot be read. Copy it again.") from error

    with pytest.raises(ValueError, match=r"  - 0\.nii\.gz: the file cannot be read\. Copy it again\.") as caught:
        SeededDataset([{"image": 0}], Compose([Lambdad("image", load)]))
    assert "checksum" not in str(caught.value)


@pytest.mark.parametrize("key", [1, (1, 5)])
def test_an_error_while_getting_an_item_is_the_cause_itself(key):
    fault = ValueError("b.nii: every voxel is 0.")
    dataset = make(faults={1: fault}, cache_rate=0.0)
    with pytest.raises(ValueError, match=r"^b\.nii: every voxel is 0\.$") as caught:
        dataset[key]
    assert caught.value is fault
    assert caught.value.__cause__ is None
    assert "applying transform" not in "".join(traceback.format_exception(caught.value))
    assert len(dataset[0]) == 1


@pytest.mark.parametrize(("num_items", "num_ranks"), [(5, 1), (5, 2), (7, 3), (4, 4)])
def test_shares_cover_everything_once(num_items, num_ranks):
    shares = [list(ShareSampler(num_items, rank, num_ranks)) for rank in range(num_ranks)]
    assert sorted(index for share in shares for index in share) == list(range(num_items))
    assert [len(ShareSampler(num_items, rank, num_ranks)) for rank in range(num_ranks)] == [len(s) for s in shares]


def test_no_process_is_left_without_an_item():
    assert [list(ShareSampler(2, rank, 3)) for rank in range(3)] == [[0], [1], [0]]
    with pytest.raises(ValueError, match=r"There are no volumes to validate on\. Add some to the datalist"):
        ShareSampler(0)


def test_no_items_where_a_run_can_do_without():
    assert list(ShareSampler(0, allow_empty=True)) == []
    assert len(ShareSampler(0, rank=1, num_ranks=2, allow_empty=True)) == 0
    assert list(ShareSampler(3, allow_empty=True)) == [0, 1, 2]
