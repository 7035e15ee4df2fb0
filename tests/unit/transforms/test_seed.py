"""A seed for what comes after the loader."""

from bertswin_ext.transforms.seed import RandSeedd


def test_the_seed_is_that_of_the_sample():
    seeds = [RandSeedd().set_random_state(n)({"image": 1})["seed"] for n in (0, 0, 1, 2)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def test_the_rest_of_the_sample_stays():
    assert RandSeedd(key="own")({"image": 1}).keys() == {"image", "own"}
