"""Trainings that were never run, of which is known what must be found."""

VIT, OURS = "ViT-MAE", "BertsWin"
LONG, SHORT = (30, 60, 120, 240), (5, 10, 20, 40)


def power_law(epochs, speed=1.0):
    """Error that falls from 1 at no epochs."""
    return 0.1 + 0.9 * (1 + speed * epochs) ** -0.6


def make_run(curves, arm, seed, epochs, speed=1.0, samples=100, **changes):
    """A run with a point half-way, worse than a shorter run's end, and one at its horizon."""
    error = power_law(epochs, speed)
    values = [{"mse": value, "ssim": 1 - value} for value in (1.2 * error, error)]
    points = (curves.Point(epochs // 2, values[0]), curves.Point(epochs, values[1]))
    return curves.Run(arm, seed, epochs, samples, points)._replace(**changes)


def runs_of(curves, speeds=(6.0, 6.0, 6.0), baseline_speeds=(1.0, 1.0, 1.0), short=SHORT):
    """Two arms with as many seeds."""
    slow = [make_run(curves, VIT, s, e, speed) for s, speed in enumerate(baseline_speeds) for e in LONG]
    fast = [make_run(curves, OURS, s, e, speed) for s, speed in enumerate(speeds) for e in short]
    return slow + fast


def facts(module, seconds=((1.0, 1.0), (2.0, 2.0))):
    """A sample of the second arm takes three times the FLOPs and twice the time."""
    make = module("comparing").ArmFacts
    return [
        make(VIT, "ViT", "L2", "AdamW", 2_100_000, 1e9, 7e11, seconds[0]),
        make(OURS, "BertsWin", "L2", "AdamW", 2_000_000, 3e9, 1.4e12, seconds[1]),
    ]


def compare(module, runs, **arguments):
    return module("comparing").Comparison(runs, facts(module, **arguments), VIT)
