"""What the tests start as processes of their own behaves as what a shell starts."""

import json
import os
import signal
import sys

import pytest
from tqdm import tqdm
from tqdm.std import TqdmDefaultWriteLock

from tests.moments import AtFile, AtLogLine, FullDisk, Send
from tests.warm import end_of, run, start


def module(folder, text):
    """The command that runs a module of this text."""
    (folder / "spoken.py").write_text(text)
    return [sys.executable, "-m", "spoken", "--flag", "1"]


@pytest.mark.parametrize(
    ("end", "status"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise ValueError('wrong')", 1), ("os.kill(os.getpid(), 9)", -9)],
)
def test_it_is_as_a_new_interpreter(tmp_path, end, status):
    text = f"""
import json, multiprocessing, os, sys
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("HERE"), __name__, multiprocessing.get_start_method()]))
sys.stderr.write("aside\\n")
sys.stdout.flush()
{end}
"""
    done = run(module(tmp_path, text), cwd=tmp_path, environment={**os.environ, "HERE": "yes"})
    assert done.returncode == status
    assert json.loads(done.stdout) == [["--flag", "1"], str(tmp_path), "yes", "__main__", "fork"]
    assert done.stderr.startswith("aside\n")
    assert done.stderr.endswith("ValueError: wrong\n") == (status == 1)


def test_what_is_left_for_the_end_is_done(tmp_path):
    text = "import atexit\natexit.register(print, 'bye')\n"
    assert run(module(tmp_path, text), cwd=tmp_path).stdout == "bye\n"


def test_a_killed_one_leaves_no_lock_behind(tmp_path):
    """Neither to this process nor to the next one."""
    text = "import os\nfrom tqdm import tqdm\ntqdm.get_lock().acquire()\nos.kill(os.getpid(), 9)\n"
    tqdm.get_lock()
    assert run(module(tmp_path, text), cwd=tmp_path).returncode == -signal.SIGKILL
    assert TqdmDefaultWriteLock.mp_lock.acquire(timeout=0)
    TqdmDefaultWriteLock.mp_lock.release()
    assert run(module(tmp_path, "from tqdm import tqdm\ntqdm(total=1).close()\n"), cwd=tmp_path).returncode == 0


def test_one_that_does_not_end_is_a_failure(tmp_path):
    (tmp_path / "spoken.py").write_text("import time\ntime.sleep(600)\n")
    process = start([sys.executable, "-m", "spoken"], tmp_path / "log", cwd=tmp_path)
    with pytest.raises(AssertionError, match=r"did not end within 0\.1 s"):
        end_of(process, 0.1)
    assert process.exitcode == -signal.SIGKILL


WRITER = """
import logging
from pathlib import Path
logging.basicConfig(level=logging.INFO)
for n in range(5):
    Path(f"{n}.txt").write_text(str(n) * 1000 * n)
    logging.info("wrote %d", n)
"""


@pytest.mark.parametrize(
    ("moment", "left", "status"),
    [
        (lambda folder: AtFile(folder, "2.txt", Send(signal.SIGKILL)), 3, -signal.SIGKILL),
        (lambda folder: AtFile(folder, "2.txt", Send(signal.SIGINT)), 3, -signal.SIGINT),
        (lambda folder: AtFile(folder, "nothing", Send(signal.SIGKILL)), 5, 0),
        (lambda folder: AtLogLine("wrote 1", Send(signal.SIGKILL)), 2, -signal.SIGKILL),
        (lambda folder: FullDisk(2500), 4, 1),
        (lambda folder: FullDisk(2500, kill=True), 4, -signal.SIGXFSZ),
    ],
    ids=["killed at a file", "interrupted", "never", "killed at a line", "full disk", "killed in a file"],
)
def test_moments(tmp_path, moment, left, status):
    done = run(module(tmp_path, WRITER), cwd=tmp_path, moment=moment(tmp_path))
    assert done.returncode == status, done.stderr
    assert len(list(tmp_path.glob("*.txt"))) == left
    if left == 4:
        assert (tmp_path / "3.txt").stat().st_size == 2500
    assert "INFO:root:wrote 0" in done.stderr
