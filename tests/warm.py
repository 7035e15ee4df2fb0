"""Commands in processes of their own that need not import torch and MONAI first, which takes 7 s of a core.

A server imports them once, and every command is a fork of it, with a process number, signals, output, environment and
working directory of its own, and with the exit status and the last words of an interpreter. The server itself does
nothing but fork: there is no thread, and no lock that another process might hold, that a fork could break. (A fork of
the process that runs the tests inherits all of these: killed while it holds the lock that every progress bar takes, it
leaves it locked for ever.)
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["end_of", "run", "start"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "monai.bundle.__main__",
        "bertswin_ext.commands",
        "bertswin_ext.data",
        "bertswin_ext.engines",
        "bertswin_ext.handlers",
        "bertswin_ext.losses",
        "bertswin_ext.networks",
        "bertswin_ext.optimizers",
        "bertswin_ext.runs",
        "bertswin_ext.transforms",
        "matplotlib.backends.backend_agg",
        "torch.utils.tensorboard",
        # what would be loaded when it is first used: by optimizers, and by the first crop
        "torch._dynamo",
        "itk.ITKCommonPython",
        "itk.ITKBridgeNumPyPython",
        "itk.ITKStatisticsPython",
        "itk.ITKImageGridPython",
        # the server's forks look at the main module of the tests
        "pytest",
    ]
)

Moment = Callable[[], None]


def start(
    arguments: Sequence[str | Path],
    stdout: Path,
    stderr: Path | None = None,
    *,
    cwd: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    moment: Moment | None = None,
) -> ForkServerProcess:
    """Start ``python -m MODULE ...``.

    Args:
        arguments: as for `subprocess.run`: the interpreter, ``-m``, the module, and its arguments.
        stdout: file for the output.
        stderr: file for the rest; the same by default.
        cwd: its working directory; this one's by default.
        environment: its variables; this one's by default.
        moment: called in the new process before the module runs; it must pickle. See `tests.moments`.
    """
    python, flag, *command = map(str, arguments)
    assert (python, flag) == (sys.executable, "-m"), arguments
    places = (str(stdout), str(stderr or stdout), str(cwd or Path.cwd()), dict(environment or os.environ))
    process = _SERVER.Process(target=_become, args=(command, *places, moment))
    process.start()
    return process


def end_of(process: ForkServerProcess, seconds: float = 300) -> int:
    """Wait for a process; its exit status, or minus the number of the signal that ended it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the process did not end within {seconds:g} s")
    return process.exitcode


def run(
    arguments: Sequence[str | Path],
    *,
    cwd: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    moment: Moment | None = None,
    seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ...`` to its end; see `start`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        status = end_of(start(arguments, out, err, cwd=cwd, environment=environment, moment=moment), seconds)
        return subprocess.CompletedProcess(list(arguments), status, out.read_text(), err.read_text())


# --- in the new process ---


def _become(
    command: list[str], stdout: str, stderr: str, cwd: str, environment: dict[str, str], moment: Moment | None
) -> None:
    """Be as a new interpreter is, and run the module."""
    for number, path in ((1, stdout), (2, stderr)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, sys.path[0:0] = command, [cwd]
    # tests that run in the background ignore Ctrl-C, and what they start would too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # a process of the server would have its own come from the server as well
    multiprocessing.set_start_method(None, force=True)
    try:
        if moment is not None:
            moment()
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except (Exception, KeyboardInterrupt) as error:
        sys.excepthook(type(error), error, error.__traceback__)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()
