"""The share of the expected features that is missed."""

import pytest
import torch

from bertswin_ext.losses.agreement import AgreementLoss, missed_variance

ALL = torch.ones(2, 5, dtype=torch.bool)


@pytest.fixture
def expected():
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_equal_features_miss_nothing_and_their_mean_misses_everything(expected):
    assert missed_variance(expected, expected, ALL).item() == 0
    mean = expected.mean(dim=1, keepdim=True).expand_as(expected)
    assert missed_variance(mean, expected, ALL).item() == pytest.approx(1)


def test_it_has_no_unit(expected):
    found = expected + torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    once = missed_variance(found, expected, ALL)
    torch.testing.assert_close(missed_variance(5 * found - 2, 5 * expected - 2, ALL), once)
    assert 0 < once < 1


def test_tokens_that_are_not_scored_do_not_matter(expected):
    scored = ALL.clone()
    scored[:, 3:] = False
    found = expected + 0.5
    wild, other = found.clone(), expected.clone()
    wild[:, 3:], other[:, 3:] = 1e6, -1e6
    torch.testing.assert_close(
        missed_variance(wild, other, scored), missed_variance(found[:, :3], expected[:, :3], ALL[:, :3])
    )


def test_every_sample_counts_once_however_many_tokens_it_has(expected):
    scored = ALL.clone()
    scored[1, 2:] = False
    found = expected + torch.tensor([0.5, 2.0])[:, None, None]
    alone = [missed_variance(found[n : n + 1], expected[n : n + 1], scored[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(missed_variance(found, expected, scored), torch.stack(alone).mean())


def test_a_sample_without_a_scored_token_counts_as_nothing(expected):
    assert missed_variance(expected + 1, expected, torch.zeros_like(ALL)).item() == 0


def test_the_loss_scores_valid_tokens_where_they_are_known(expected):
    loss, found = AgreementLoss("features"), expected + 0.5
    output = {"features": found, "expected_features": expected}
    valid = ALL.clone()
    valid[0, 0] = False
    assert loss(output, {}) == missed_variance(found, expected, ALL)
    assert loss(output, {"valid": valid}) == missed_variance(found, expected, valid) != loss(output, {})


def test_statistics_are_exact_under_autocast(expected):
    output = {"tokens": (expected + 0.01).bfloat16(), "expected_tokens": expected.bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        found = AgreementLoss()(output, {})
    assert found.dtype == torch.float32
    assert found == missed_variance(output["tokens"].float(), output["expected_tokens"].float(), ALL)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"tokens": torch.zeros(1, 2, 3)}, "must have `expected_tokens`, found tokens"),
        ({"expected_tokens": torch.zeros(1, 2, 3)}, "must have `tokens`, found expected_tokens"),
        (
            {"tokens": torch.zeros(1, 2, 3), "expected_tokens": torch.zeros(1, 4, 3)},
            r"one shape, got \(1, 2, 3\) and \(1, 4, 3\)",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(output, message):
    with pytest.raises(ValueError, match=message):
        AgreementLoss("tokens")(output, {})
