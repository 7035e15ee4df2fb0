"""What can be said of the convergence benchmark's page and pictures without training anything."""

import math

import numpy as np
import pytest

from tests.unit.convergence.invented import OURS, VIT, compare, facts, make_run, power_law, runs_of


def at(reaching, *amounts):
    return [reaching.Reached(amount) for amount in amounts]


# --- cells ---


def test_amounts_and_their_bounds(module, reaching):
    cells = module("cells")
    assert cells.reached_text(at(reaching, 10, 20, 40)) == "20 (10 to 40)"
    assert cells.reached_text(at(reaching, 240, 240)) == "240"
    assert cells.reached_text([*at(reaching, 16), reaching.Reached(4, "by")]) == "<= 8"
    assert cells.reached_text([*at(reaching, 20), reaching.Reached(64, "beyond")]) == (
        "not reached with 1 of 2 seeds in 64"
    )
    assert cells.reached_text([reaching.Reached(64, "beyond"), None]) == "not reached in 64"
    assert cells.reached_text([None]) == ""
    assert cells.amount_text([reaching.Reached(64, "beyond")], "seconds") == ""
    assert cells.amount_text(at(reaching, 7200.0), "seconds") == "2.0 h"
    assert cells.amount_text(at(reaching, 4.32e14), "FLOPs") == "432 TFLOP"


def test_diverged_seeds_are_counted(module, mse):
    cells = module("cells")
    assert cells.over_seeds([0.25, 0.75, math.nan], mse) == "0.5000 (0.2500 to 0.7500), 1 of 3 diverged"
    assert cells.over_seeds([math.nan], mse) == "diverged"


@pytest.mark.parametrize(
    ("kind", "value", "low", "answer"),
    [
        ("exact", 6.0, 5.9, "yes"),
        ("exact", 6.0, 5.0, "yes, but the interval begins at 5.0"),
        ("exact", 5.0, 4.0, "no"),
        ("exact", 6.0, math.nan, "yes"),
        ("at least", 6.0, math.nan, "yes"),
        ("at least", 5.0, math.nan, "not shown"),
        ("at most", 5.0, math.nan, "no"),
        ("at most", 60.0, math.nan, "not shown"),
        ("unknown", math.nan, math.nan, "not known"),
    ],
)
def test_a_goal_is_met_or_not(module, reaching, kind, value, low, answer):
    goal = module("comparing").Goal(OURS, "epochs", 5.8)
    assert module("cells").verdict(reaching.Ratio(kind, value, low), goal) == answer


# --- learning rates, ablations, labels ---


def test_a_learning_rate_at_an_end_is_told(module, mse):
    extras = module("extras")
    tried = [extras.Tried(VIT, rate, 8, rate, rate == 2e-3) for rate in (2e-3, 5e-4, 1e-3)]
    text = extras.tried_section(tried)
    assert "| ViT-MAE | 0.0005 | 8 | 0.0005 |  |\n| ViT-MAE | 0.001 |" in text
    assert "| ViT-MAE | 0.002 | 8 | 0.0020 | chosen |" in text
    assert text.endswith("a better one may lie beyond: ViT-MAE.")
    inside = [row._replace(is_chosen=row.learning_rate == 1e-3) for row in tried]
    assert "beyond" not in extras.tried_section(inside)


def test_ablations_are_compared_seed_by_seed(module, mse, ssim):
    extras = module("extras")
    values = {"mse": [0.2, 0.4], "ssim": [0.5, 0.7]}
    reference = extras.Ablation(OURS, "", "0.75", 16, values, 2e9, is_reference=True)
    own = extras.Ablation(OURS, "mask ratio", "0.6", 16, {"mse": [0.1, 0.8], "ssim": [0.5, 0.5]}, 3e9, is_kept=True)
    other = own._replace(epochs=32, is_kept=False)
    elsewhere = reference._replace(recipe="other", values={"mse": [9.0, 9.0], "ssim": [0.0, 0.0]})
    text = extras.ablation_section([elsewhere, reference, own, other], [mse, ssim])
    assert "| BertsWin |  | 0.75 | 16 | 0.3000 (0.2000 to 0.4000) |  | 0.6000 |  | reference |" in text
    change = "| BertsWin | mask ratio | 0.6 |"
    assert f"{change} 16 | 0.4500 (0.1000 to 0.8000) | 1.000 (0.500 to 2.000) | 0.5000 | 1.50 | kept |" in text
    assert "| BertsWin | mask ratio | 0.6 | 32 | 0.4500 (0.1000 to 0.8000) |  | 0.5000 |  |  |" in text


def test_rank_correlation(module):
    extras = module("extras")
    assert extras.rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert extras.rank_correlation([1, 2, 3, 4], [4, 3, 2, -9]) == pytest.approx(-1)
    # by hand: 1 - 6 * (0 + 1 + 1) / (3 * 8)
    assert extras.rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert extras.rank_correlation([1, 1, 2], [5, 5, 9]) == pytest.approx(1)
    assert extras.rank_correlation([1, 1], [1, 2]) == 0
    # 2 of 24 orders are as extreme
    assert extras.chance_of([1, 2, 3, 4], [1, 2, 3, 4]) == pytest.approx(2 / 24)
    assert extras.chance_of(range(9), range(9)) < 0.01


def test_better_reconstruction_and_better_dice_have_the_sign_of_agreement(module, mse):
    extras = module("extras")
    rows = [extras.Transfer(OURS, epochs, 0, 1 / epochs, 4, 0.5 + epochs / 100) for epochs in (4, 8, 16)]
    scratch = extras.Transfer("from scratch", 0, 0, math.nan, 4, 0.25)
    text = extras.transfer_section([scratch, *rows, rows[0]._replace(labelled=1)], mse)
    assert "| 4 | from scratch |  |  | 0.250 |" in text
    assert "| 4 | BertsWin | 8 | 0.1250 | 0.580 |" in text
    assert "- 4 labelled: +1.00 with 3 encoders; chance makes one so large in 33.3 % of orders" in text
    assert "- 1 labelled: 1 encoders are too few to say" in text


# --- the page ---


def report(module, runs, metrics, **changes):
    comparing, page = module("comparing"), module("page")
    goals = [comparing.Goal(OURS, "epochs", 5.8), comparing.Goal("other", "epochs", 15)]
    parts = {"goals": goals, "setting": ["48 phantoms"], "commands": [("All", "python benchmarks/convergence.py")]}
    return page.Report(runs, facts(module), VIT, metrics, **(parts | changes))


def text_of(module, *arguments, **changes):
    made = report(module, *arguments, **changes)
    return module("page").page_text(compare(module, made.runs), made, has_reconstructions=False)


def written(module, tmp_path, *arguments, **changes):
    module("page").write_page(report(module, *arguments, **changes), tmp_path)
    return (tmp_path / "convergence.md").read_text(encoding="utf-8")


def test_the_page_has_the_numbers(module, curves, mse, ssim):
    text = text_of(module, runs_of(curves), [mse, ssim])
    assert (
        "- **BertsWin** reaches the best masked MSE of ViT-MAE with 6.0 times fewer epochs (95 %: 6.0 to 6.0), "
        "2.0 times fewer FLOPs, 3.0 times fewer seconds (95 %: 3.0 to 3.0), and 95 % of its gain with 6.0 (6.0 to 6.0) "
        "times fewer epochs; 3 seeds" in text
    )
    assert "- asked of BertsWin: 5.8 times fewer epochs; measured 6.0 (6.0 to 6.0): met" in text
    assert "- asked of other: 15 times fewer epochs; not run" in text
    assert "parameters differ by 5 % at most" in text
    assert "| 100 %, seed by seed | each its own | ViT-MAE | 240 |  |  | 24 TFLOP |  | 6.7 h |  |" in text
    assert (
        "|  |  | BertsWin | 40 | 6.0 (6.0 to 6.0) |  | 12 TFLOP | 2.0 (2.0 to 2.0) | 2.2 h | 3.0 (3.0 to 3.0) |" in text
    )
    assert f"| BertsWin | 40 | 3 | {power_law(240):.4f} ({power_law(240):.4f} to {power_law(240):.4f}) |" in text
    assert "| BertsWin | 3 GFLOP | 3.00 | 1.4 TFLOP | 2.00 | 2000 (2000 to 2000) | 2.00 (2.00 to 2.00) |" in text
    assert "\n- 48 phantoms\n" in text
    assert "```bash\npython benchmarks/convergence.py\n```" in text


def test_the_page_says_what_was_not_reached(module, curves, mse):
    runs = runs_of(curves, (6.0, 6.0, 1.0))
    runs.append(make_run(curves, OURS, 3, 40, points=()))
    text = text_of(module, runs, [mse])
    assert (
        "- **BertsWin** does not reach the best masked MSE of ViT-MAE with 1 of 3 seeds within 40 epochs: less than "
        "6.0 times fewer epochs" in text
    )
    assert "not reached with 1 of 3 seeds in 40" in text
    assert "- not finished, and so only in the curves: BertsWin, 40 epochs, seed 3" in text


def test_the_page_says_that_a_goal_is_not_met(module, curves, mse):
    text = text_of(module, runs_of(curves, (5.0, 5.0, 5.0), short=(6, 12, 24, 48)), [mse])
    assert "- asked of BertsWin: 5.8 times fewer epochs; measured 5.0 (5.0 to 5.0): **not met**" in text
    cells = ["BertsWin", "fewer epochs", ">= 5.8", "masked MSE", *3 * ["5.0 (5.0 to 5.0)"], "no"]
    assert f"| {' | '.join(cells)} |" in text


def test_the_page_says_whether_the_baseline_is_level(module, curves, mse):
    first = "- from 120 to 240 epochs ViT-MAE makes {} % of all its gain in masked MSE"
    share = 100 * (power_law(120) - power_law(240)) / (1 - power_law(240))
    assert share < 5
    assert f"{first.format(f'{share:.1f}')}, so it is level" in text_of(module, runs_of(curves), [mse])
    slow = text_of(module, runs_of(curves, baseline_speeds=(0.01,) * 3), [mse])
    assert "**it is not level yet**" in slow


def test_the_page_says_which_seeds_are_missing(module, curves, mse):
    runs = [run for run in runs_of(curves) if run[:3] != (VIT, 2, 240) and run[:2] != (OURS, 1)]
    text = text_of(module, runs, [mse])
    assert "- not compared, for want of the baseline's longest training: seed 2" in text
    assert "- BertsWin has no finished training with seed 1" in text
    assert "1 seed, so no interval" in text


def test_a_baseline_alone_has_a_page(module, curves, mse, tmp_path):
    runs = [run for run in runs_of(curves) if run.arm == VIT]
    volume = np.zeros((8, 8, 8))
    examples = [module("figures").Example("one", volume, volume, {VIT: volume})]
    text = written(module, tmp_path, runs, [mse], examples=examples)
    assert "convergence_ratios.png" not in text
    assert "(convergence_reconstructions.png)" in text
    assert (tmp_path / "convergence_reconstructions.png").is_file()
    assert "| BertsWin | 3 GFLOP | 3.00 |" in text
    assert "none yet" in text
    found = curves.read_runs(tmp_path / "convergence.csv")
    assert [run.final(mse) for run in found] == pytest.approx([run.final(mse) for run in runs], rel=1e-7)


def test_sections_of_nothing_are_left_out(module, curves, mse):
    text = text_of(module, runs_of(curves), [mse], goals=(), commands=())
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "## In short",
        "## What is compared",
        "## How to read it",
        "## Epochs, FLOPs and seconds to reach what the baseline reaches",
        "## Over FLOPs and seconds",
        "## Final fidelity",
    ]


def test_every_section_has_its_place(module, curves, mse, tmp_path):
    extras, picture = module("extras"), tmp_path / "convergence_reconstructions.png"
    given = {
        "tried": [extras.Tried(VIT, 1e-3, 8, 0.5, True)],
        "ablations": [extras.Ablation(OURS, "", "0.75", 16, {"mse": [0.2]}, is_reference=True)],
        "transfer": [extras.Transfer(OURS, 8, 0, 0.2, 1, 0.5)],
    }
    # made anew without the volumes, the picture stays
    picture.write_bytes(b"before")
    text = written(module, tmp_path, runs_of(curves), [mse], **given)
    assert picture.read_bytes() == b"before"
    for title in ("Reconstructions", "Learning rates tried", "Ablations", "Transfer to few labels", "How to repeat it"):
        assert f"\n## {title}\n" in text


# --- pictures ---


def test_the_pictures_that_the_page_shows_are_there(module, curves, mse, ssim, tmp_path):
    # one seed of the arm diverges, another does not get there
    runs = runs_of(curves, (6.0, 1.0, math.nan))
    text = written(module, tmp_path, runs, [mse, ssim, mse._replace(label="again")])
    for name in ("convergence.png", "convergence_costs.png", "convergence_ratios.png"):
        assert f"({name})" in text
        assert (tmp_path / name).stat().st_size > 10_000


def test_failed_trainings_do_not_flatten_the_others(module, curves, mse):
    runs = [*runs_of(curves), make_run(curves, OURS, 3, 5, points=(curves.Point(5, {"mse": 1000.0}),))]
    low, high = module("figures")._limits(compare(module, runs), mse)
    assert 0 < low < power_law(240)
    assert power_law(30) < high < 0.5


def test_horizons_are_named_where_there_is_room(module):
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    panel.set(xscale="log", xlim=(1, 300))
    module("figures")._plain_ticks(panel, [30, 60, 64, 120, 240])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["240", "120", "64", "30"]


def test_slices_show_i_to_the_right_and_j_upwards(module):
    volume = np.arange(24.0).reshape(2, 3, 4)
    assert module("figures")._middle(volume).tolist() == [[2.0, 14.0], [6.0, 18.0], [10.0, 22.0]]


def test_an_arm_without_a_reconstruction_leaves_an_empty_place(module, tmp_path):
    figures = module("figures")
    volume, hidden = np.random.default_rng(0).random((8, 8, 8)), np.full((8, 8, 8), np.nan)
    examples = [
        figures.Example("one", volume, hidden, {VIT: volume, OURS: volume}),
        figures.Example("two", volume, hidden, {OURS: volume}),
    ]
    figures.draw_reconstructions(examples, tmp_path / "examples.png")
    assert (tmp_path / "examples.png").stat().st_size > 5_000
