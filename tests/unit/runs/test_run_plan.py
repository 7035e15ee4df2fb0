"""What a configuration tells about the cost of its run."""

from pathlib import Path

import pytest

from bertswin_ext.runs.run_plan import read_plan

CONFIGS = Path(__file__).parents[3] / "bundles" / "pretrain" / "configs"


def files(*names):
    return [str(CONFIGS / f"{name}.json") for name in names]


def test_the_papers_recipe():
    plan = read_plan(files("train")[0])
    assert plan.network.tokens == 2744
    assert plan.num_steps == 1000 * 300
    assert plan.samples_of_step == 50
    assert (plan.num_losses, plan.accumulation, plan.row_bytes, plan.momenta) == (3, "classic", 4, 1)
    assert plan.previous_bytes > 0
    assert plan.mixed
    assert not plan.sharded


def test_a_cpu_has_other_defaults():
    gpu, cpu = (read_plan(files("train"), on_gpu=on_gpu) for on_gpu in (True, False))
    assert gpu.batch_size > cpu.batch_size == 1
    assert gpu.samples_of_step == cpu.samples_of_step


def test_the_demo():
    plan = read_plan(files("train", "demo"), on_gpu=False)
    assert (plan.network.tokens, plan.samples_of_step, plan.num_steps, plan.mixed) == (216, 4, 1200, False)


def test_overlays():
    plan = read_plan(files("train", "adamw"))
    assert (plan.num_losses, plan.previous_bytes, plan.momenta) == (1, 0, 2)


def test_overrides():
    plain = read_plan(files("train"))
    changed = {"epochs": 10, "img_size": 96, "window_size": 3, "accumulation": "stochastic", "amp": False}
    plan = read_plan(files("train"), changed)
    assert plan.num_steps == plain.num_steps // 100
    assert plan.network.tokens == 216
    assert plan.backward_passes == 1
    assert not plan.mixed


def test_the_rest_of_an_epoch_is_a_step_too():
    changed = {"iterations_per_epoch": 7, "accumulation_steps": 3, "epochs": 2}
    assert read_plan(files("train"), changed).num_steps == 6


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        (["nothing"], {}, r"`config_file` must name configurations, .*nothing\.json does not exist"),
        (["train"], {"epoch": 3}, "the entry 'epoch' does not exist. Did you mean 'epochs'"),
        (["train"], {"epochs": "many"}, "must be whole numbers from 1 on; with them .*'many'"),
        (["train"], {"window_size": 30}, "`window_size` must lie between 1 and the token grid"),
        (["train", "vit_mae"], {}, "must train bertswin_ext.networks.BertsWinMAE as a whole.*ViTMAE"),
        (["train", "tune_stem"], {}, "as a whole.*Its network: .*train::tuner"),
    ],
)
def test_what_cannot_be_estimated(names, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_plan(files(*names), overrides)
