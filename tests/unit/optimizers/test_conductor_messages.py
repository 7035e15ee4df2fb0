"""What the conductor says to wrong arguments."""

import math

import pytest
import torch
from torch import nn

from bertswin_ext.optimizers import GradientConductor
from tests.unit.optimizers.small_tasks import Point, conducted, row_losses

AB = {"a": 1.0, "b": 1.0}
NONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"accumulation_steps": 0}, r"`accumulation_steps` must be a positive integer, got 0\."),
        ({"accumulation_steps": 2.0}, r"`accumulation_steps` must be a positive integer, got 2\.0\."),
        ({"max_skipped_steps": 0}, r"`max_skipped_steps` must be a positive integer, got 0\."),
        ({"accumulation": "random"}, r"`accumulation` must be one of classic, stochastic, got 'random'\."),
        ({"sync": "max"}, r"`sync` must be one of mean, sum, none, got 'max'\."),
        ({"resolver": "pcgrad"}, r"`resolver` must be one of smooth, zoned or a function, got 'pcgrad'\."),
        (
            {"accumulation": "stochastic", "accumulation_steps": 5},
            r"out evenly: `accumulation_steps` must be a multiple of the 2 losses, got 5\.",
        ),
        ({"thresholds": (-0.5, -0.8, 0.0)}, r"`thresholds` must be three cosines .* got \(-0\.5, -0\.8, 0\.0\)"),
        ({"thresholds": (-2.0, -0.8)}, r"`thresholds` must be three cosines .* got \(-2\.0, -0\.8\)"),
        ({"norm_cap": 0.0}, r"`norm_cap` must be positive or None, got 0\.0\."),
        ({"norm_cap": math.nan}, r"`norm_cap` must be positive or None, got nan\."),
        ({"max_conflicts": -1}, r"`max_conflicts` must be a number of decisions or None, got -1\."),
        ({"norm_cap": "x"}, r"`norm_cap` must be positive or None, got 'x'\."),
        ({"norm_decay": "x"}, r"`norm_decay` must be at least 0 and below 1, got 'x'\."),
        ({"dominance_window": 1.5}, r"`dominance_window` must be 0 \(off\) or a number of conflicts, got 1\.5\."),
        ({"thresholds": None}, r"`thresholds` must be three cosines .* got None"),
        ({"thresholds": ("a", "b", "c")}, r"`thresholds` must be three cosines .* got \('a', 'b', 'c'\)"),
        ({"max_conflicts": 1.5}, r"`max_conflicts` must be a number of decisions or None, got 1\.5\."),
        ({"norm_decay": 1.0}, r"`norm_decay` must be at least 0 and below 1, got 1\.0\."),
        ({"dominance_window": -1}, r"`dominance_window` must be 0 \(off\) or a number of conflicts, got -1\."),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GradientConductor(Point(2), AB, **kwargs)


@pytest.mark.parametrize("dtype", [torch.int64, "bfloat16"])
def test_rows_that_cannot_hold_gradients(dtype):
    with pytest.raises(TypeError, match=r"`dtype` must be a floating type .* In a configuration: '\$torch\.bfloat16'"):
        GradientConductor(Point(2), AB, dtype=dtype)


@pytest.mark.parametrize(
    ("loss_weights", "message"),
    [
        ({}, r"`loss_weights` must name at least one loss with its weight, got \{\}\."),
        (["a", "b"], r"`loss_weights` must name at least one loss with its weight, got \['a', 'b'\]\."),
        ({"a": 1.0, "b": -1.0}, r"`loss_weights` must be finite and not negative, got -1\.0 for 'b'\."),
        ({"a": math.nan, "b": 1.0}, r"`loss_weights` must be finite and not negative, got nan for 'a'\."),
        ({"a": "x"}, r"`loss_weights` must be finite and not negative, got 'x' for 'a'\."),
        ({1: 1.0, "a": 1.0}, r"`loss_weights` must have names as keys, got 1\."),
        ({"a": math.inf}, r"`loss_weights` must be finite and not negative, got inf for 'a'\."),
    ],
)
def test_bad_weights(loss_weights, message):
    with pytest.raises(ValueError, match=message):
        GradientConductor(Point(2), loss_weights)


def test_a_wrapped_model():
    with pytest.raises(ValueError, match=r"`model` must not be wrapped, got DataParallel: .* Pass `model\.module`"):
        GradientConductor(nn.DataParallel(Point(2)), AB)


def test_a_model_without_trainable_parameters():
    with pytest.raises(ValueError, match=r"The model has no trainable parameter\. Set `requires_grad`"):
        GradientConductor(Point(2).requires_grad_(False), AB)


@pytest.mark.parametrize("model", [None, [Point(2)], Point(2).parameters()], ids=["None", "list", "parameters"])
def test_no_model(model):
    with pytest.raises(TypeError, match=rf"`model` must be a torch\.nn\.Module, got {type(model).__name__}\."):
        GradientConductor(model, AB)


def test_no_resolver():
    with pytest.raises(TypeError, match=r"`resolver` must be a name or a function, got float\."):
        GradientConductor(Point(2), AB, resolver=1.0)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"a": NONE}, r"must be those of `loss_weights`, a, b; got a; missing: b\."),
        ({"a": NONE, "b": NONE, "c": NONE}, r"a, b; got a, b, c; unknown: c\."),
        ({"A": NONE, "b": NONE}, r"a, b; got A, b; missing: a; unknown: A\."),
        ({"a": torch.ones(2, requires_grad=True), "b": NONE}, r"The loss 'a' must be a scalar, got shape \(2,\)\."),
        ({"a": NONE, "b": NONE}, r"The loss 'a' does not require grad: it was computed under `torch\.no_grad`"),
    ],
    ids=["missing", "unknown", "mistyped", "no scalar", "no grad"],
)
def test_bad_losses(losses, message):
    conductor = GradientConductor(Point(2), AB)
    with pytest.raises(ValueError, match=message):
        conductor.accumulate(losses)
    with pytest.raises(ValueError, match="Nothing has been accumulated"):
        conductor.conduct()


def test_a_loss_that_is_no_tensor():
    with pytest.raises(TypeError, match=r"The loss 'a' must be a tensor, got float\."):
        GradientConductor(Point(2), AB).accumulate({"a": 1.0, "b": 1.0})


def test_stochastic_accumulation_needs_the_loss_that_is_due():
    point = Point(2)
    conductor = GradientConductor(point, AB, accumulation="stochastic", accumulation_steps=2)
    losses = row_losses(point, [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"got b; missing: a\."):
        conductor.accumulate({"b": losses["b"]})
    conductor.accumulate({"a": losses["a"]})


def test_conduct_needs_something():
    with pytest.raises(ValueError, match=r"Nothing has been accumulated for this step\. Call `accumulate` with the"):
        GradientConductor(Point(2), AB).conduct()


def test_conduct_once_for_each_step():
    _, conductor = conducted([[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="Nothing has been accumulated"):
        conductor.conduct()


def test_accumulate_no_more_than_a_step():
    point = Point(1)
    conductor = GradientConductor(point, {"a": 1.0}, accumulation_steps=2)
    for _ in range(2):
        conductor.accumulate(row_losses(point, [[1.0]]))
    with pytest.raises(ValueError, match=r"All 2 micro-batches of this step are in\. Call `conduct` before the next"):
        conductor.accumulate(row_losses(point, [[1.0]]))


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (None, "None"),
        ([1.0, 1.0], r"\[1\.0, 1\.0\]"),
        (torch.ones(3), r"tensor\(\[1\., 1\., 1\.\]\)"),
        (torch.ones(2, 1), r"tensor\(\["),
        (torch.tensor([1.0, math.nan]), r"tensor\(\[1\., nan\]\)"),
    ],
    ids=["None", "list", "too many", "matrix", "nan"],
)
def test_a_resolver_that_returns_something_else(result, found):
    with pytest.raises(ValueError, match=rf"must return 2 finite weights, one for each loss, got {found}"):
        conducted([[1.0, 0.0], [0.0, 1.0]], resolver=lambda gramian: result)
