"""What can be said of the convergence benchmark's figures without training anything."""

import math

import pytest
import torch

from tests.unit.convergence.invented import OURS, SHORT, VIT, compare, make_run, power_law, runs_of


def horizons(curves, *pairs):
    return [curves.Horizon(*pair) for pair in pairs]


# --- runs and their tables ---


def test_epochs_without_validation_are_left_out(curves, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,iteration,train_loss,val_mean_ssim,val_mean_l2\n"
        "1,10,0.9,,\n2,20,0.8,0.5,0.25\n3,30,0.7,,\n4,40,0.6,,0.125\n"
    )
    run = curves.read_run(path, OURS, 3, 4, 40, ["val_mean_ssim", "val_mean_l2"])
    assert run.points == ((2, {"val_mean_ssim": 0.5, "val_mean_l2": 0.25}), (4, {"val_mean_l2": 0.125}))
    assert (run.arm, run.seed, run.epochs, run.samples_per_epoch) == (OURS, 3, 4, 40)
    assert run.is_finished
    assert run.final(curves.METRICS[0]) == 0.125
    assert math.isnan(run.final(curves.METRICS[1]))


def test_a_run_that_is_not_validated_at_its_horizon_is_not_finished(curves, mse, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,mse\n56,0.25\n60,\n")
    run = curves.read_run(path, OURS, 0, 60, 40, ["mse"])
    assert not run.is_finished
    assert math.isnan(run.final(mse))
    assert curves.horizons([run], OURS, 0, mse) == []


def test_a_run_that_has_not_begun_has_no_points(curves, tmp_path):
    run = curves.read_run(tmp_path / "metrics.csv", OURS, 0, 60, 40, ["mse"])
    assert run.points == ()
    assert not run.is_finished


def test_runs_are_found_again(curves, mse, ssim, tmp_path):
    lacking = make_run(curves, "a, b", 1, 20, points=(curves.Point(10, {"ssim": 0.5}), curves.Point(20, {"mse": 0.25})))
    runs = [make_run(curves, VIT, 0, 8, points=(curves.Point(8, {"mse": 0.75, "ssim": math.inf}),)), lacking]
    curves.write_runs(tmp_path / "runs.csv", runs, [mse, ssim])
    assert curves.read_runs(tmp_path / "runs.csv") == runs


def test_metrics_without_a_start_are_left_out(curves):
    (metric,) = curves.with_starts({"val_mean_ssim": 0.25})
    assert (metric.label, metric.start, metric.larger_is_better) == ("SSIM", 0.25, True)


@pytest.mark.parametrize(("name", "value", "gain"), [("mse", 0.25, 0.75), ("ssim", 0.25, 0.25)])
def test_gain_is_counted_from_the_start(request, name, value, gain):
    metric = request.getfixturevalue(name)
    assert metric.gain(value) == gain
    assert metric.of_gain(gain) == value


def test_what_diverged_is_never_the_best(mse, ssim):
    assert mse.best([math.nan, 0.5, 0.25]) == 0.25
    assert ssim.best([math.nan, 0.5, 0.25]) == 0.5
    assert math.isnan(ssim.best([math.nan]))
    assert mse.show(math.nan) == "diverged"


def test_means_are_of_horizons_that_all_seeds_have(curves, mse):
    runs = [make_run(curves, OURS, 0, 10), make_run(curves, OURS, 0, 20), make_run(curves, OURS, 1, 10, speed=2.0)]
    assert curves.mean_horizons(runs, OURS, mse, [0, 1, 2]) == [(10, (power_law(10) + power_law(20)) / 2)]


# --- epochs to reach ---


def test_between_horizons_it_is_linear_in_the_logarithm(curves, reaching, mse):
    points = horizons(curves, (40, 0.2), (10, 0.6))
    assert reaching.epochs_to_reach(points, 0.4, mse) == (pytest.approx(20), "at")
    assert reaching.epochs_to_reach(points, 0.2, mse) == (40, "at")
    assert reaching.epochs_to_reach(points, 0.6, mse) == (10, "at")


def test_larger_may_be_better(curves, reaching, ssim):
    points = horizons(curves, (10, 0.4), (40, 0.8))
    assert reaching.epochs_to_reach(points, 0.6, ssim) == (pytest.approx(20), "at")
    assert reaching.epochs_to_reach(points, 0.3, ssim) == (10, "by")
    assert reaching.epochs_to_reach(points, 0.9, ssim) == (40, "beyond")


def test_bounds_are_no_numbers(curves, reaching, mse):
    points = horizons(curves, (10, 0.6), (40, 0.2))
    assert reaching.epochs_to_reach(points, 0.7, mse) == (10, "by")
    assert reaching.epochs_to_reach(points, 0.1, mse) == (40, "beyond")
    assert reaching.epochs_to_reach([], 0.1, mse) is None


def test_a_longer_training_counts_as_no_worse(curves, reaching, mse):
    points = horizons(curves, (10, 0.6), (20, 0.4), (40, 0.5), (80, 0.2))
    assert [point.value for point in reaching.envelope(points, mse)] == [0.6, 0.4, 0.4, 0.2]
    assert reaching.epochs_to_reach(points, 0.45, mse).amount == pytest.approx(10 * 2**0.75)
    assert reaching.epochs_to_reach(points, 0.3, mse).amount == pytest.approx(40 * 2**0.5)


def test_a_training_that_diverged_leaves_a_bound(curves, reaching, mse):
    points = horizons(curves, (10, math.nan), (20, 0.4), (40, math.nan))
    assert reaching.epochs_to_reach(points, 0.5, mse) == (20, "by")
    assert reaching.epochs_to_reach(points, 0.3, mse) == (40, "beyond")


@pytest.mark.parametrize("name", ["mse", "ssim"])
def test_targets_are_shares_of_the_best_gain(curves, reaching, request, name):
    metric = request.getfixturevalue(name)
    # the longest horizon is not the best
    values = [metric.of_gain(gain) for gain in (0.4, 0.8, 0.7)]
    mean = horizons(curves, *zip((10, 20, 40), values, strict=True))
    by_seed = {5: horizons(curves, (10, metric.of_gain(0.9)))}
    found = reaching.targets(mean, by_seed, metric)
    assert [metric.gain(target.mean) for target in found] == pytest.approx([0.4, 0.64, 0.76, 0.8, 0.8])
    # to the last digit, or the baseline would miss itself
    assert found[3].of(5) == values[1]
    assert found[4].of(5) == by_seed[5][0].value
    assert [target.label for target in found[2:]] == ["95 %", "100 %", "100 %, seed by seed"]


def test_without_a_gain_there_are_no_shares_of_it(curves, reaching, mse):
    points = horizons(curves, (10, 0.5))
    for start in (0.4, math.nan):
        found = reaching.targets(points, {0: points}, mse._replace(start=start))
        assert [(target.share, target.mean) for target in found] == [(1.0, 0.5), (1.0, 0.5)]


# --- ratios ---


def at(reaching, *amounts):
    return [reaching.Reached(amount) for amount in amounts]


def test_the_interval_of_three_seeds(reaching):
    ratio = reaching.ratio_with_interval(list(zip(at(reaching, 40, 80, 160), at(reaching, 10, 10, 10), strict=True)))
    # logarithms ln 8 - ln 2, ln 8, ln 8 + ln 2: deviation ln 2, times 4.303 / sqrt(3)
    width = 2 ** (4.303 / math.sqrt(3))
    assert ratio.kind == "exact"
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((8, 8 / width, 8 * width))
    assert (ratio.smallest, ratio.largest, ratio.seeds, ratio.missed) == (4, 16, 3, 0)


def test_the_interval_collapses_without_noise(reaching):
    ratio = reaching.ratio_with_interval([(reaching.Reached(60), reaching.Reached(10))] * 3)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((6, 6, 6))


def test_a_single_seed_has_no_interval(reaching):
    ratio = reaching.ratio_with_interval([(reaching.Reached(60), reaching.Reached(10)), (None, reaching.Reached(10))])
    assert (ratio.value, ratio.seeds, ratio.has_interval) == (pytest.approx(6), 1, False)
    assert reaching.ratio_with_interval([(None, None)]).kind == "none"


@pytest.mark.parametrize("degrees", range(1, 10))
def test_quantiles_are_those_of_student(reaching, degrees):
    quantile = reaching.t_quantile(degrees)
    x = torch.linspace(-quantile, quantile, 20001, dtype=torch.float64)
    density = torch.distributions.StudentT(torch.tensor(float(degrees), dtype=torch.float64)).log_prob(x).exp()
    assert torch.trapezoid(density, x) == pytest.approx(0.95, abs=1e-4)


def test_more_degrees_of_freedom_are_not_trusted(reaching):
    assert reaching.t_quantile(50) == reaching.t_quantile(9)
    with pytest.raises(ValueError, match="degrees must be 1 or more, got 0"):
        reaching.t_quantile(0)


@pytest.mark.parametrize(
    ("baseline", "arm", "kind", "text"),
    [
        ("at", "by", "at least", ">= 6.0"),
        ("beyond", "at", "at least", ">= 6.0"),
        ("beyond", "by", "at least", ">= 6.0"),
        ("at", "beyond", "at most", "not reached with 1 of 2 seeds (< 6.0)"),
        ("by", "at", "at most", "<= 6.0"),
        ("by", "beyond", "at most", "not reached with 1 of 2 seeds (< 6.0)"),
        ("by", "by", "unknown", "not known"),
        ("beyond", "beyond", "unknown", "not reached with 1 of 2 seeds"),
    ],
)
def test_one_bound_makes_the_ratio_a_bound(module, reaching, baseline, arm, kind, text):
    sure = (reaching.Reached(60), reaching.Reached(10))
    ratio = reaching.ratio_with_interval([sure, (reaching.Reached(60, baseline), reaching.Reached(10, arm))])
    assert ratio.kind == kind
    assert not ratio.has_interval
    assert module("cells").ratio_text(ratio) == text


def test_bounds_that_do_not_fit_together_say_nothing(reaching):
    low = (reaching.Reached(60), reaching.Reached(10, "by"))
    high = (reaching.Reached(60), reaching.Reached(10, "beyond"))
    ratio = reaching.ratio_with_interval([low, high])
    assert (ratio.kind, ratio.missed) == ("unknown", 1)
    assert math.isnan(ratio.value)


def test_a_measured_unit_widens_the_interval(reaching):
    pairs = list(zip(at(reaching, 40, 80, 160), at(reaching, 10, 10, 10), strict=True))
    ratio = reaching.ratio_with_interval(pairs)
    exact, measured = ratio.times_measured([0.5, 0.5, 0.5]), ratio.times_measured([0.4, 0.5, 0.625])
    assert (exact.low, exact.value, exact.high) == pytest.approx((ratio.low / 2, 4, ratio.high / 2))
    assert measured.value == pytest.approx(4)
    seeds, rounds = (4.303 / math.sqrt(3) * math.log(step) for step in (2, 1.25))
    assert measured.high == pytest.approx(4 * math.exp(math.hypot(seeds, rounds)))
    assert measured.low == pytest.approx(16 / measured.high)


# --- arms beside the baseline ---


@pytest.mark.parametrize("name", ["mse", "ssim"])
def test_a_sixfold_speed_is_found(module, curves, request, name):
    metric = request.getfixturevalue(name)
    comparison = compare(module, runs_of(curves))
    for target in comparison.targets(metric)[-3:]:
        expected = {"epochs": 6.0, "samples": 6.0, "FLOPs": 2.0, "seconds": 3.0}
        for quantity, value in expected.items():
            ratio = comparison.ratio(OURS, metric, target, quantity)
            assert ratio.kind == "exact"
            assert (ratio.low, ratio.value, ratio.high) == pytest.approx((value,) * 3)
        assert comparison.mean_ratio(OURS, metric, target).value == pytest.approx(6)


def test_it_is_found_nearly_with_other_horizons(module, curves, mse):
    comparison = compare(module, runs_of(curves, short=(6, 12, 24, 48)))
    ratio = comparison.ratio(OURS, mse, comparison.targets(mse)[-1])
    assert ratio.value == pytest.approx(6, rel=0.03)


def test_seeds_that_fall_short_of_their_mean_leave_a_bound_and_seed_by_seed_a_number(module, curves, mse):
    speeds = (0.8, 1.0, 1.2)
    comparison = compare(module, runs_of(curves, [6 * speed for speed in speeds], speeds, short=(*SHORT, 80)))
    *_, mean, own = comparison.targets(mse)
    assert comparison.ratio(OURS, mse, mean).kind == "at least"
    ratio = comparison.ratio(OURS, mse, own)
    assert (ratio.kind, ratio.value, ratio.largest) == ("exact", pytest.approx(6), pytest.approx(6))


def test_a_seed_without_the_longest_baseline_is_not_compared(module, curves, mse):
    runs = [run for run in runs_of(curves, (6.0, 6.0, 60.0)) if run[:3] != (VIT, 2, 240)]
    comparison = compare(module, runs)
    assert comparison.seeds == [0, 1]
    ratio = comparison.ratio(OURS, mse, comparison.targets(mse)[-1])
    assert (ratio.value, ratio.seeds) == (pytest.approx(6), 2)
    assert comparison.mean_ratio(OURS, mse, comparison.targets(mse)[-2]).value == pytest.approx(6)


def test_epochs_of_other_sizes_are_other_numbers_of_samples(module, curves, mse):
    runs = [run._replace(samples_per_epoch=300) if run.arm == OURS else run for run in runs_of(curves)]
    comparison = compare(module, runs)
    target = comparison.targets(mse)[-1]
    found = [comparison.ratio(OURS, mse, target, quantity).value for quantity in ("epochs", "samples", "FLOPs")]
    assert found == pytest.approx([6, 2, 2 / 3])
    assert "| epochs | x fewer | of means | samples | x fewer | FLOPs |" in module("sections").reaching_table(
        comparison, mse
    )


def test_seconds_are_compared_round_by_round(module, curves, mse):
    runs = [run._replace(samples_per_epoch=200) if run.arm == OURS else run for run in runs_of(curves)]
    # the second round was slow for both; of twice as many samples, a sixth of the epochs is a third
    comparison = compare(module, runs, seconds=((1.0, 4.0), (2.0, 8.0)))
    ratio = comparison.ratio(OURS, mse, comparison.targets(mse)[-1], "seconds")
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    noisy = compare(module, runs, seconds=((1.0, 1.0, 1.0), (1.0, 2.0, 4.0)))
    ratio = noisy.ratio(OURS, mse, noisy.targets(mse)[-1], "seconds")
    assert (ratio.value, ratio.low) == pytest.approx((1.5, 1.5 / 2 ** (4.303 / math.sqrt(3))))


def test_seconds_that_were_not_measured_are_left_out(module, curves, mse):
    comparison = compare(module, runs_of(curves), seconds=((), ()))
    assert comparison.ratio(OURS, mse, comparison.targets(mse)[-1], "seconds").kind == "none"
    assert "| time |" not in module("sections").reaching_table(comparison, mse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: [run for run in runs if run.arm != VIT], "'ViT-MAE' must have a finished run"),
        (lambda runs: [*runs, runs[0]._replace(arm="new")], r"\['new'\] are missing"),
        (lambda runs: [*runs, runs[0]], r"\('ViT-MAE', 0, 30\) is there twice"),
        (lambda runs: [*runs[1:], runs[0]._replace(samples_per_epoch=7)], r"as many samples, found \[7, 100\]"),
    ],
)
def test_runs_that_cannot_be_compared(module, curves, change, message):
    with pytest.raises(ValueError, match=message):
        compare(module, change(runs_of(curves)))
