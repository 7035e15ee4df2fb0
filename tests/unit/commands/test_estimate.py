"""The command that tells what a run will cost."""

import re
from pathlib import Path

import fire
import pytest

from bertswin_ext.commands.estimate import estimate

CONFIGS = Path(__file__).parents[3] / "bundles" / "pretrain" / "configs"
TRAIN = str(CONFIGS / "train.json")
DEMO = str([TRAIN, str(CONFIGS / "demo.json")])


def typed(*flags):
    """As it is typed."""
    return fire.Fire({"estimate": estimate}, command=["estimate", *flags])


def line(text, start):
    (found,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return found


def test_the_papers_recipe_on_eight_cards():
    text = typed("--config_file", TRAIN, "--card", "A100", "--cards", "8", "--scans", "1000")
    assert "90.8 M parameters, 2744 tokens; losses: 3, classic" in text
    assert "5 micro-batches x 10 samples" in line(text, "FLOPs of a step")
    assert "fits into 80 GB" in line(text, "memory of a card")
    assert "(312 TFLOP/s x 0.4)" in line(text, "time of a step")
    assert "between 8 cards" in line(text, "time of a step")
    assert "1.2e+08 in all" in line(text, "every card")
    assert "is an assumption" in text
    assert "each of 1000 scans is seen 1.2e+05 times" in text


def test_hours_follow_from_the_speed():
    days = [
        float(re.search(r"([\d.]+) days on 1", typed("--config_file", TRAIN, "--tflops", tflops, "--mfu", "0.5"))[1])
        for tflops in ("100", "50")
    ]
    assert days[1] == pytest.approx(2 * days[0], rel=0.01)


def test_a_cpu_and_an_override():
    text = typed("--config_file", DEMO, "--card", "cpu", "--tflops", "0.09", "--mfu", "0.5", "--epochs", "6")
    assert "1 micro-batches x 4 samples" in text
    assert "the run, 600 steps" in text
    assert "fits" not in text
    assert "assumption" not in text


def test_a_card_that_is_not_in_the_list():
    text = typed("--config_file", TRAIN, "--card", "B200", "--tflops", "2250")
    assert "fit" not in line(text, "memory of a card")
    assert "on 1 x B200" in line(text, "the run")
    text = typed("--config_file", TRAIN, "--card", "B200", "--tflops", "2250", "--memory_gb", "192")
    assert "fits into 192 GB" in line(text, "memory of a card")


def test_too_large_a_batch():
    text = typed("--config_file", TRAIN, "--card", "RTX 3090", "--batch_size", "100")
    assert re.search(r"does not fit into 24 GB, which has room for batch_size \d\d?$", line(text, "memory of a card"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--card", "GTX"], "`--card` must be one of RTX 3090, .* or cpu, got 'GTX'"),
        (["--card", "cpu"], "`--tflops` must be given for a CPU"),
        (["--amp", "False"], "`--tflops` must be given for a run with amp False"),
        (["--cards", "0"], "`--cards` must be more than 0, got 0"),
        (["--cards", "1.5"], "`--cards` must be a whole number, got 1.5"),
        (["--mfu", "40"], "`--mfu` must be a share, at most 1, got 40"),
        (["--mfu", "half"], "`--mfu` must be a number, got 'half'"),
        (["--epoch", "3"], "the entry 'epoch' does not exist"),
    ],
)
def test_bad_flags(flags, message):
    with pytest.raises((ValueError, TypeError), match=message):
        typed("--config_file", TRAIN, *flags)


def test_a_flag_without_a_file():
    with pytest.raises(TypeError, match="`--config_file` must be a path, got none"):
        typed("--config_file")
