import dataclasses

import pytest

from bertswin_ext.optimizers import Conflict, StepStatistics

STEP = StepStatistics(
    step=7,
    norms={"far": 2.0, "near": 1.0},
    norm_averages={"far": 1.5, "near": 1.25},
    cosines={("far", "near"): -0.5},
    weights={"far": 1.5, "near": 1.0},
    conflicts=(Conflict("near", "far"), Conflict("near", "far")),
    num_skipped=3,
)
SKIPPED = StepStatistics(
    step=8,
    norms={"far": float("nan"), "near": 1.0},
    norm_averages={"far": 1.5, "near": 1.25},
    not_finite=("far",),
    num_skipped=4,
)


def test_everything_has_a_name():
    assert STEP.scalars() == {
        "cosine/far-near": -0.5,
        "norm/far": 2.0,
        "norm/near": 1.0,
        "norm_average/far": 1.5,
        "norm_average/near": 1.25,
        "weight/far": 1.5,
        "weight/near": 1.0,
        "wins/far": 0.0,
        "wins/near": 2.0,
        "conflicts": 2.0,
        "skipped_steps": 3.0,
    }


def test_a_skipped_step_is_only_counted():
    assert SKIPPED.is_skipped
    assert not STEP.is_skipped
    assert SKIPPED.scalars() == {"skipped_steps": 4.0}


def test_one_task_has_no_pairs():
    scalars = StepStatistics(1, {"only": 2.0}, {"only": 1.05}, weights={"only": 1.0}).scalars()
    assert not [name for name in scalars if name.startswith("cosine/")]


def test_the_numbers_of_a_step_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        STEP.step = 9
