"""The conductor against the authors' class: same data, same decisions, same steps."""

import numpy as np
import pytest
import torch

from bertswin_ext.optimizers import GradientConductor, LionLARS
from tests.golden.reference import load, sym

pytestmark = pytest.mark.golden

DESCRIPTION, ARRAYS = load("gcond_2task_smooth_lion")
META = DESCRIPTION["meta"]
CASES = list(DESCRIPTION["cases"])
# gradients are compared relative to their largest entry
ROUNDING = 1e-5
TASKS = ["t0", "t1"]


def make_model():
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Tanh(), torch.nn.Linear(10, 4))
    for k, (name, parameter) in enumerate(sorted(model.named_parameters())):
        scale = 0.05 if name.endswith("bias") else (3 / parameter.shape[1]) ** 0.5
        parameter.data = torch.from_numpy(sym(9500 + k, parameter.shape, scale).astype(np.float32))
    return model


def batch(call, scenario):
    """Input and one target per task of the data call ``call``."""
    x = sym(9600 + call, (16, 6), 1.0).astype(np.float32)
    exact = x.astype(np.float64)
    columns = np.arange(4)
    v = np.sin(exact[:, :1] + 0.3 * columns) + 0.5 * exact[:, 1:2]
    targets = []
    for k, (a, b) in enumerate(META["targets"]["2"][scenario]):
        u = np.cos(1.3 * exact[:, [(k + 2) % 6]] - 0.4 * columns) + 0.5 * exact[:, [(k + 3) % 6]]
        targets.append(torch.from_numpy((a * v + b * u).astype(np.float32)))
    return torch.from_numpy(x), targets


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy()


def play(case):
    """Six steps of a case; per step the raw rows, the combined gradient, the update, and the statistics."""
    stochastic = bool(case["kwargs"]["stochastic_accumulation"])
    model = make_model()
    conductor = GradientConductor(
        model,
        dict(zip(TASKS, META["lambdas"]["2"], strict=True)),
        accumulation_steps=META["accumulation_steps"],
        accumulation="stochastic" if stochastic else "classic",
    )
    kwargs = case["kwargs"]
    optimizer = LionLARS(
        model.parameters(), kwargs["trust_ratio_coef"], momentum=0.85, trust_clip=kwargs["trust_ratio_clip"]
    )
    call = 0
    for _ in range(6):
        is_complete = False
        while not is_complete:
            x, targets = batch(call, case["scenario"])
            losses = {task: (model(x) - target).square().mean() for task, target in zip(TASKS, targets, strict=True)}
            is_complete = conductor.accumulate({task: losses[task] for task in conductor.due_tasks})
            call += 1
        assert conductor.conduct()
        views = conductor.bank.state_dict()["previous"].values()
        raw = np.stack([flat(view[index] for view in views) for index in range(2)])
        safe = flat(parameter.grad for parameter in model.parameters())
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        yield raw, safe, flat(before) - flat(model.parameters()), conductor.last_step
        # the reference leaves its update in `grad`, and a plain step takes a tenth of it
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.data = old.lerp(parameter.data, META["sgd_lr"])


def assert_close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_parameters_come_in_the_reference_order():
    assert [name for name, _ in make_model().named_parameters()] == META["param_names"]


@pytest.mark.parametrize("name", CASES)
def test_steps_equal_the_reference(name):
    case = DESCRIPTION["cases"][name]
    expected = {part: ARRAYS[f"{name}|f32|{part}"] for part in ("raw", "safe", "grad")}
    steps = list(zip(range(case["robust_steps"]), play(case), strict=False))
    assert len(steps) == case["robust_steps"] > 0
    for index, (raw, safe, update, statistics) in steps:
        assert_close(raw, expected["raw"][index], ROUNDING)
        assert_close(safe, expected["safe"][index], ROUNDING)
        assert_close(update, expected["grad"][index], ROUNDING)
        known = case["f32"]["stats"][index]
        for task in TASKS:
            assert statistics.norms[task] == pytest.approx(known[f"raw_norm/{task}"], rel=ROUNDING)
            assert statistics.norm_averages[task] == pytest.approx(known[f"norm_ema/{task}"], rel=ROUNDING)
        if known["proj_iters"]:
            assert statistics.cosines["t0", "t1"] == pytest.approx(known["min_cosine_sim"], abs=ROUNDING)
        if case["robust_arbitration"]:
            decided = [[*sorted(conflict), conflict.winner] for conflict in statistics.conflicts]
            assert decided == [entry[:3] for entry in case["f32"]["arbitrations"][index]]
            assert len(statistics.conflicts) == known["proj_iters"]
