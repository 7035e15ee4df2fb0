"""Jobs in processes: all done, the deadly one found out, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertswin_ext.workers import in_workers


def double(number, folder):
    """Twice a number; 3 kills its process the first time, 5 every time, 7 is a mistake."""
    (folder / f"{number}").open("a").write("x")
    times = len((folder / f"{number}").read_text())
    if number == 5 or (number == 3 and times == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 7:
        raise KeyError("seven")
    return 2 * number


def test_every_job_is_done_once(tmp_path):
    done = dict(in_workers(double, [1, 2, 4, 6, 8], (tmp_path,), workers=2))
    assert done == {n: 2 * n for n in (1, 2, 4, 6, 8)}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("12468", "x")


def test_a_killed_process_costs_no_job(tmp_path):
    """Those that were under way are done again."""
    done = list(in_workers(double, [1, 3, 2, 4, 6, 8], (tmp_path,), workers=2))
    assert sorted(done) == [(n, 2 * n) for n in (1, 2, 3, 4, 6, 8)]


def test_the_job_that_kills_is_named(tmp_path):
    done = dict(in_workers(double, [5, 1, 4, 2], (tmp_path,), workers=2))
    assert done == {5: None, 1: 2, 4: 8, 2: 4}
    assert (tmp_path / "5").read_text() == "xx"


def test_an_error_ends_it(tmp_path):
    with pytest.raises(KeyError, match="seven"):
        list(in_workers(double, [7, *range(10, 30)], (tmp_path,), workers=1))
    assert len(list(tmp_path.iterdir())) < 4


def sleep(number, folder):
    (folder / f"{number}").write_text(str(os.getpid()))
    time.sleep(60)


SCRIPT = """
from pathlib import Path
from bertswin_ext.workers import in_workers
from tests.unit.test_workers import sleep
if __name__ == "__main__":
    list(in_workers(sleep, [1, 2], (Path({folder!r}),), workers=2))
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, number):
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path)))
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    notes = [tmp_path / "1", tmp_path / "2"]
    wait_for(lambda: all(note.is_file() and note.read_text() for note in notes))
    workers = [int(note.read_text()) for note in notes]
    assert all(map(is_alive, workers))
    # a terminal's Ctrl-C goes to all of them
    (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
    _, errors = parent.communicate(timeout=20)
    wait_for(lambda: not any(map(is_alive, workers)))
    assert errors.count(b"Traceback") == (number == signal.SIGINT)  # the parent's own


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
