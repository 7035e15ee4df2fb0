"""Tables in Markdown."""

import math

import pytest

from bertswin_ext.evaluation.markdown_table import HEADINGS, markdown_table, score_cell
from bertswin_ext.evaluation.segmentation_scores import SCORES


def test_every_score_has_a_heading():
    assert tuple(HEADINGS) == SCORES


@pytest.mark.parametrize(
    ("score", "value", "cell"),
    [("dice", 0.98765, "0.9877"), ("hd95_mm", 12.345, "12.35"), ("assd_mm", math.nan, "–"), ("dice", None, "–")],
)
def test_cells(score, value, cell):
    assert score_cell(score, value) == cell


def test_a_bar_does_not_end_a_cell():
    assert markdown_table(["a"], [["x|y"], ["z"]]) == ["| a |", "|---|", r"| x\|y |", "| z |"]
