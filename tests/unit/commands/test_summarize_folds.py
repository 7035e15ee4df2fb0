"""The command that puts folds together."""

import pytest
from fire import Fire

from bertswin_ext.commands.summarize_folds import summarize_folds
from bertswin_ext.evaluation.score_table import write_scores
from tests.unit.evaluation.cases import case


@pytest.fixture
def runs(tmp_path):
    for fold, patients in enumerate([("a", "b"), ("c", "d")]):
        cases = [case(patient, 0.5 + 0.25 * fold, 1.0) for patient in patients]
        write_scores(tmp_path / "2024_01" / f"fold_{fold}" / "evaluation" / "scores.csv", cases)
    return tmp_path / "2024_01"


def command(*arguments):
    return Fire({"summarize_folds": summarize_folds}, command=["summarize_folds", *map(str, arguments)])


def test_a_folder(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # a relative name that looks like a number
    command("--input", "2024_01", "--output", "2024_02")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2024_02/folds.md"
    assert lines[1] == "mandible: Dice 0.6250 (0.5000 to 0.7500), patients: 4"
    assert sorted(path.name for path in (tmp_path / "2024_02").iterdir()) == ["folds.csv", "folds.md"]


@pytest.mark.parametrize("form", ["[{0}/fold_0,{0}/fold_1]", "['{0}/fold_0', \"{0}/fold_1\"]"])
def test_a_list(runs, tmp_path, form):
    text = command("--input", form.format(runs), "--output", tmp_path / "out")
    assert "patients: 4" in text
    assert summarize_folds([f"{runs}/fold_0", f"{runs}/fold_1"], str(tmp_path / "out")) == text


def test_a_missing_fold(runs, tmp_path):
    with pytest.raises(ValueError, match="fold_2 is missing"):
        command("--input", runs, "--output", tmp_path / "out", "--num_folds", "3")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "--output", "out"], "`--input` must be a path, got none"),
        (["--input", "x", "--output", "out", "--num_folds", "two"], "`--num_folds` must be a whole number, got 'two'"),
        (["--input", "x", "--output", "out", "--num_folds", "0"], "`--num_folds` must be at least 1, got 0"),
    ],
)
def test_bad_flags(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        command(*arguments)
