import pytest
import torch

from bertswin_ext.networks.weight_report import WeightReport, compare_weights, refuse_poor_match


def tensors(**sizes):
    return {name: torch.zeros(size) for name, size in sizes.items()}


def test_every_tensor_has_one_fate():
    report = compare_weights(tensors(a=2, b=3, z=1), tensors(a=2, b=4, c=1))
    assert report == WeightReport(("a",), ("c",), ("z",), ("b (3,) instead of (4,)",))
    assert report.match == 1 / 3


def test_resized_counts_as_filled_and_fresh_not_at_all():
    report = WeightReport(("a", "b"), ("c",), ("z",), (), resized=("d",), fresh=("e", "f"))
    assert report.match == 3 / 4
    assert report.lines() == [
        "2 of the network's 4 tensors matched",
        "1 resized: d",
        "1 missing: c",
        "1 unexpected: z",
        "2 fresh: e, f",
    ]


def test_long_lists_are_cut():
    names = tuple("abcdefg")
    assert str(WeightReport((), names, (), ())) == (
        "0 of the network's 7 tensors matched; 7 missing: a, b, c, d, e and 2 more"
    )


def test_a_poor_match_is_refused():
    report = WeightReport(("a", "b", "c"), ("d",), (), ())
    refuse_poor_match(report, 0.75, "It")
    with pytest.raises(
        ValueError, match=r"It does not fit the network: 3 of .* 1 missing: d\. At least 80% must match"
    ):
        refuse_poor_match(report, 0.8, "It")


def test_nothing_to_fill_matches_nothing():
    assert compare_weights({}, {}).match == 0
