from dataclasses import replace

import pytest

from bertswin_ext.networks.encoder_fit import (
    input_faults,
    size_faults,
    stem_faults,
    window_faults,
    windows_differ,
)
from bertswin_ext.networks.record import AdaptationRecord

RECORD = AdaptationRecord("BertsWinMAE", {}, "RAS", (0.2, 0.2, 0.2))


def test_sizes_name_both_values_and_the_knob():
    theirs = {"hidden_size": 768, "num_layers": 12, "img_size": [224] * 3, "mlp_dim": 1}
    ours = {"hidden_size": 96, "num_layers": 12, "img_size": [96] * 3, "mlp_dim": 2, "patch_size": 8}
    wanted = ["hidden_size: the encoder has 768, the network 96. Set `--hidden_size 768`."]
    assert size_faults(theirs, ours, "BertsWin") == wanted


def test_a_vit_is_of_one_size():
    faults = size_faults({"img_size": [48, 48, 32]}, {"img_size": 48}, "ViT")
    assert faults == ["img_size: the encoder has (48, 48, 32), the network 48. Set `--img_size '[48,48,32]'`."]
    assert size_faults({"img_size": [48, 48, 48]}, {"img_size": 48}, "ViT") == []


@pytest.mark.parametrize(
    ("theirs", "ours", "differ"),
    [
        ({"window_size": [3, 3, 3]}, {"window_size": 3}, False),
        ({"window_size": [2, 2, 3], "bias_rows": 45}, {"window_size": [2, 3, 2], "bias_rows": 45}, True),
        ({"bias_rows": 45}, {"window_size": [2, 3, 2], "bias_rows": 45}, False),
        ({"bias_rows": 45}, {"window_size": [2, 2, 2], "bias_rows": 27}, True),
        ({}, {}, False),
    ],
)
def test_windows_are_told_by_size_else_by_number_of_offsets(theirs, ours, differ):
    assert windows_differ(theirs, ours) is differ


def test_windows_that_differ():
    theirs, ours = {"window_size": [7, 7, 7]}, {"window_size": [3, 3, 3]}
    (fault,) = window_faults(theirs, ours, resize_window=False)
    assert fault.startswith(
        "window_size: the encoder has 7, the network 3. Set `--window_size 7`, or `resize_window=True`"
    )
    assert window_faults(theirs, ours, resize_window=True) == []
    (fault,) = window_faults({"bias_rows": 45}, {**ours, "bias_rows": 125}, resize_window=True)
    assert "does not tell its windows" in fault


@pytest.mark.parametrize(
    ("theirs", "ours", "remedy"),
    [
        ("overlapping", "non_overlapping", "Tune one on this encoder with bundles/pretrain/configs/tune_stem.json"),
        ("non_overlapping", "overlapping", "Set `--stem non_overlapping`"),
    ],
)
def test_stems_of_two_kinds(theirs, ours, remedy):
    (fault,) = stem_faults({"stem": theirs}, {"stem": ours}, allow_fresh_stem=False)
    assert f"the encoder has {theirs}, the network {ours}; it would stay random" in fault
    assert remedy in fault
    assert stem_faults({"stem": theirs}, {"stem": ours}, allow_fresh_stem=True) == []
    assert stem_faults({"stem": theirs}, {"stem": theirs}, allow_fresh_stem=False) == []


def test_the_input_that_was_learnt():
    configured = replace(RECORD, spacing_mm=(0.8, 0.8, 0.8), min_hu=-1000.0)
    spacing, hu = input_faults(RECORD, configured)
    assert spacing == (
        "spacing_mm: the encoder learnt at 0.2 mm, the configuration has 0.8 mm. "
        "Set `--spacing_mm 0.2`, or pre-train at the configuration's spacing."
    )
    assert hu.startswith("min_hu: the encoder learnt with -1011 HU, the configuration has -1000 HU. Pre-train")
    assert input_faults(None, configured) == []
