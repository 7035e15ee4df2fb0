"""Where the scores of the folds are looked for, and what is missing."""

import pytest

from bertswin_ext.evaluation.fold_files import find_folds, read_folds
from bertswin_ext.evaluation.score_table import write_scores
from tests.unit.evaluation.cases import case


def write_folds(folder, numbers, place="evaluation/scores.csv"):
    for number in numbers:
        write_scores(folder / f"fold_{number}" / place, [case(f"p{number}", 0.5, 1.0)])


@pytest.mark.parametrize("place", ["evaluation/scores.csv", "scores.csv"])
def test_a_folder_of_folds(tmp_path, place):
    write_folds(tmp_path, range(11), place)
    (tmp_path / "fold_notes").mkdir()
    folds = find_folds(tmp_path)
    assert list(folds) == [f"fold_{number}" for number in range(11)]  # not 0, 1, 10, 2
    assert folds["fold_2"] == tmp_path / "fold_2" / place
    assert [c.patient for c in read_folds(folds)["fold_10"]] == ["p10"]


def test_a_list_of_folders_and_files(tmp_path):
    write_folds(tmp_path, [0, 1])
    given = [str(tmp_path / "fold_1" / "evaluation" / "scores.csv"), tmp_path / "fold_0"]
    assert list(find_folds(given)) == ["fold_0", "fold_1"]


def test_folders_with_other_names(tmp_path):
    for name in ("b", "a"):
        write_scores(tmp_path / name / "scores.csv", [case(name, 1.0, 1.0)])
    folds = find_folds([tmp_path / "b", tmp_path / "a" / "scores.csv"])
    assert list(folds) == [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(ValueError, match=r"there must be 3 folds, 2 were given"):
        find_folds([tmp_path / "b", tmp_path / "a"], num_folds=3)


def test_missing_folds_are_named_all_at_once(tmp_path):
    write_folds(tmp_path, [0, 3])
    (tmp_path / "fold_4").mkdir()
    with pytest.raises(ValueError, match=r"3 faults in the folds:") as error:
        find_folds(tmp_path)
    text = str(error.value)
    assert f"{tmp_path / 'fold_4'} has no evaluation/scores.csv or scores.csv: evaluate this fold." in text
    assert "fold_1 is missing: train and evaluate it." in text
    assert "fold_2 is missing" in text


def test_the_last_fold_is_missed_where_their_number_is_known(tmp_path):
    write_folds(tmp_path, [0, 1])
    assert len(find_folds(tmp_path)) == 2
    with pytest.raises(ValueError, match="fold_2 is missing"):
        find_folds(tmp_path, num_folds=3)


def test_a_fold_more_than_there_may_be(tmp_path):
    write_folds(tmp_path, [0, 1, 2])
    with pytest.raises(ValueError, match=r"fold_2 is beyond the 2 folds asked for"):
        find_folds(tmp_path, num_folds=2)


def test_a_fold_given_twice(tmp_path):
    write_folds(tmp_path / "a", [0])
    write_folds(tmp_path / "b", [0])
    with pytest.raises(ValueError, match=r"fold_0 is both .*a.fold_0.* and .*b.fold_0: give every fold once"):
        find_folds([tmp_path / "a" / "fold_0", tmp_path / "b" / "fold_0"])


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_no_folds(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"`input` .*{folder} must be a folder with fold_0, fold_1, .* found none"):
        find_folds(tmp_path / folder)


def test_an_empty_list():
    with pytest.raises(ValueError, match="must name the folders of the folds, got an empty list"):
        find_folds([])


def test_faults_of_all_files_at_once(tmp_path):
    write_folds(tmp_path, [0, 1, 2])
    for number, text in {0: "patient\n", 2: "dice\n"}.items():
        (tmp_path / f"fold_{number}" / "evaluation" / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match="2 faults in the folds") as error:
        read_folds(find_folds(tmp_path))
    assert "fold_0: " in str(error.value)
    assert "fold_2: " in str(error.value)
    assert "hd95_mm" in str(error.value)
