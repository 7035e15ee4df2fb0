"""Room for a new run, its log, and errors that name their cause."""

import logging
import random
import sys

import numpy as np
import pytest
import torch

from bertswin_ext.runs import start as module
from bertswin_ext.runs.start import start_run

OURS = ("checkpoints", "reconstructions", "tensorboard", "metrics.csv", "model.pt", "progress.png", "run_report.json")


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """Leave the process as it was: hooks, handlers, seeds."""
    monkeypatch.setattr(module, "check_config", lambda bundle_root: None)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


def write_run(folder, text="first"):
    """What a run leaves behind."""
    start_run("bundle", folder)
    for name in OURS:
        if "." in name:
            (folder / name).write_text(text)
        else:
            (folder / name).mkdir()
            (folder / name / "file").write_text(text)


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def log_of(folder):
    return (folder / "run.log").read_text()


def test_a_new_folder_gets_a_log(tmp_path):
    start_run("bundle", tmp_path / "new" / "run")
    logging.getLogger("anything").info("said later")
    log = log_of(tmp_path / "new" / "run")
    assert "INFO bertswin_ext.runs.start: bertswin-ext 0.1.0, MONAI " in log.splitlines()[0]
    assert "said later" in log
    assert contents(tmp_path / "new" / "run") == ["run.log"]


def test_earlier_runs_are_moved_and_numbered(tmp_path):
    write_run(tmp_path, "first")
    write_run(tmp_path, "second")
    start_run("bundle", tmp_path)
    assert contents(tmp_path) == ["previous", "run.log"]
    assert contents(tmp_path / "previous") == ["1", "2"]
    for number, text in (("1", "first"), ("2", "second")):
        moved = tmp_path / "previous" / number
        assert contents(moved) == sorted([*OURS, "run.log"])
        assert (moved / "model.pt").read_text() == text
        assert (moved / "checkpoints" / "file").read_text() == text
    assert f"an earlier run was in {tmp_path}: moved to {tmp_path / 'previous' / '2'}" in log_of(tmp_path)
    assert "moved to" not in log_of(tmp_path / "previous" / "1")


def test_numbers_go_on_after_the_largest(tmp_path):
    for name in ("9", "10", "notes", "3a"):
        (tmp_path / "previous" / name).mkdir(parents=True)
    write_run(tmp_path)
    start_run("bundle", tmp_path)
    assert contents(tmp_path / "previous") == ["10", "11", "3a", "9", "notes"]


def test_what_others_put_beside_a_run_stays(tmp_path):
    write_run(tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii.gz").write_text("mine")
    start_run("bundle", tmp_path)
    assert contents(tmp_path) == ["previous", "run.log", "scans", "thesis.tex"]
    assert (tmp_path / "scans" / "a.nii.gz").read_text() == "mine"


@pytest.mark.parametrize("log", [None, "step 1\n bertswin_ext.runs.start: bertswin-ext 0.1.0", ""])
def test_a_folder_of_others_is_left_alone(tmp_path, log):
    """Even one whose files have the names of ours."""
    for name in ("model.pt", "metrics.csv", "data.txt"):
        (tmp_path / name).write_text("mine")
    if log is not None:
        (tmp_path / "run.log").write_text(log)
    start_run("bundle", tmp_path)
    assert contents(tmp_path) == ["data.txt", "metrics.csv", "model.pt", "run.log"]
    assert log_of(tmp_path).startswith(log or "")


@pytest.mark.parametrize("arguments", [{"resume": True}, {"keep_output": True}])
def test_resume_and_evaluation_move_nothing(tmp_path, arguments):
    write_run(tmp_path)
    before = log_of(tmp_path)
    start_run("bundle", tmp_path, **arguments)
    assert contents(tmp_path) == sorted([*OURS, "run.log"])
    assert log_of(tmp_path).startswith(before)
    assert len(log_of(tmp_path)) > len(before)


def test_one_log_at_a_time(tmp_path):
    for name in ("a", "b"):
        start_run("bundle", tmp_path / name)
    logging.getLogger("anything").info("said later")
    assert "said later" not in log_of(tmp_path / "a")
    assert log_of(tmp_path / "b").count("said later") == 1


def test_faults_are_found_before_anything_is_moved(tmp_path, monkeypatch):
    write_run(tmp_path)

    def refuse(bundle_root):
        raise ValueError(f"1 fault in the configuration of {bundle_root}")

    monkeypatch.setattr(module, "check_config", refuse)
    with pytest.raises(ValueError, match="1 fault in the configuration of bundle"):
        start_run("bundle", tmp_path)
    assert contents(tmp_path) == sorted([*OURS, "run.log"])


def test_the_seed_is_set(tmp_path):
    def draw(seed):
        start_run("bundle", tmp_path, seed=seed)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    first = draw(4)
    assert draw(4) == first
    assert draw(5) != first


def test_other_processes_write_nothing_and_have_another_seed(tmp_path, monkeypatch):
    start_run("bundle", tmp_path / "zero", seed=4)
    expected = torch.rand(1)
    barriers = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.barrier", lambda: barriers.append(1))
    start_run("bundle", tmp_path / "one", seed=4)
    assert not torch.equal(torch.rand(1), expected)
    assert not (tmp_path / "one").exists()
    assert barriers == [1]
    assert logging.getLogger().level == logging.WARNING


# --- errors ---


def wrapped():
    """A fault of a volume as MONAI passes it on."""
    try:
        try:
            try:
                raise OSError("bad checksum")
            except OSError as error:
                raise ValueError("a.nii.gz: the file cannot be read") from error
        except ValueError as error:
            raise RuntimeError("applying transform") from error
    except RuntimeError as error:
        raise RuntimeError("Failed to instantiate component") from error


def shown(capsys, call):
    with pytest.raises((RuntimeError, ValueError), match=r".") as caught:
        call()
    sys.excepthook(caught.type, caught.value, caught.tb)
    return capsys.readouterr().err


def test_the_cause_is_the_last_line(tmp_path, capsys):
    start_run("bundle", tmp_path)
    text = shown(capsys, wrapped)
    assert "Traceback (most recent call last)" in text
    assert "RuntimeError: Failed to instantiate component" in text
    assert text.endswith("\n\nThe cause: a.nii.gz: the file cannot be read\n")


def test_an_error_without_wrapper_is_shown_once(tmp_path, capsys):
    start_run("bundle", tmp_path)

    def plain():
        raise ValueError("`epochs` must be positive")

    text = shown(capsys, plain)
    assert text.endswith("ValueError: `epochs` must be positive\n")
    assert "The cause" not in text


def test_processes_that_do_not_know_of_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "check_config", lambda _root: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match=r"2 processes were started, .* To train, add multi_gpu_train\.json to `--config_file`; eval"
    ):
        start_run("bundle", tmp_path / "run")
    assert not (tmp_path / "run").exists()
