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


def sleep(number, folder, seconds):
    (folder / f"{number}").write_text(str(os.getpid()))
    time.sleep(seconds)
    (folder / f"{number} done").touch()


SCRIPT = """
import signal
from pathlib import Path
from bertswin_ext.workers import in_workers
from tests.unit.test_workers import sleep
if __name__ == "__main__":
    # tests may run in the background, where Ctrl-C is ignored
    signal.signal(signal.SIGINT, signal.{handler})
    for _ in in_workers(sleep, [1, 2], (Path({folder!r}), {seconds}), workers=2):
        pass
"""


def start(folder, seconds=60, handler="default_int_handler"):
    """A process with two jobs in two more, and the numbers of these."""
    (folder / "script.py").write_text(SCRIPT.format(folder=str(folder), seconds=seconds, handler=handler))
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, folder / "script.py"],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    notes = [folder / "1", folder / "2"]
    wait_for(lambda: parent.poll() is not None or all(note.is_file() and note.read_text() for note in notes))
    assert parent.poll() is None, parent.stderr.read().decode()
    return parent, [int(note.read_text()) for note in notes]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


@needs_proc
@pytest.mark.parametrize(
    ("send", "number", "status"),
    [
        (os.kill, signal.SIGKILL, -signal.SIGKILL),
        (os.kill, signal.SIGINT, -signal.SIGINT),
        # a terminal's Ctrl-C goes to all of them
        (os.killpg, signal.SIGINT, -signal.SIGINT),
    ],
)
def test_workers_end_with_their_parent(tmp_path, send, number, status):
    parent, workers = start(tmp_path)
    assert all(map(is_alive, workers))
    send(parent.pid, number)
    _, errors = parent.communicate(timeout=60)
    wait_for(lambda: not any(map(is_alive, workers)))
    assert parent.returncode == status
    assert errors.count(b"Traceback") == (number == signal.SIGINT), errors.decode()  # the parent's own


def test_in_the_background_ctrl_c_stops_nothing(tmp_path):
    """A shell starts what is in the background with Ctrl-C ignored."""
    parent, workers = start(tmp_path, seconds=1, handler="SIG_IGN")
    os.killpg(parent.pid, signal.SIGINT)
    _, errors = parent.communicate(timeout=60)
    assert (parent.returncode, errors) == (0, b"")
    assert [int((tmp_path / name).read_text()) for name in "12"] == workers, "jobs were done again"
    assert all((tmp_path / f"{name} done").is_file() for name in "12")


@needs_proc
def test_workers_end_when_nobody_wants_their_results(tmp_path):
    jobs = in_workers(sleep_if_not_first, [0, 1], (tmp_path,), workers=2)
    assert next(jobs) == (0, None)
    worker = int((tmp_path / "1").read_text())
    assert is_alive(worker)
    jobs.close()
    assert not is_alive(worker)
    assert not (tmp_path / "1 done").exists()


def sleep_if_not_first(number, folder):
    """The first job ends when the second one has begun."""
    if number == 1:
        sleep(1, folder, 60)
    wait_for(lambda: (folder / "1").is_file() and (folder / "1").read_text())


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.02)
