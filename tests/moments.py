"""What a process does to itself at a certain moment: to be killed, interrupted or held there, not about then.

All of these pickle, for `tests.warm.start`.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["AtFile", "AtLogLine", "FullDisk", "Hold", "Send"]


@dataclass(frozen=True)
class Send:
    """Send this process a signal."""

    number: signal.Signals

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)


@dataclass(frozen=True)
class Hold:
    """Say that the moment has come, and go on when there is an answer."""

    connection: Connection

    def __call__(self) -> None:
        self.connection.send("here")
        self.connection.recv()


@dataclass(frozen=True)
class AtFile:
    """Act as soon as there is a file, before the next one is opened or renamed."""

    folder: Path
    pattern: str
    act: Send | Hold

    def __call__(self) -> None:
        sys.addaudithook(_Once(self))


class _Once:
    """Looks, whenever a file is opened or renamed, whether there is the one that is waited for."""

    def __init__(self, moment: AtFile) -> None:
        self.moment = moment
        self.is_over = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_over and event in ("open", "os.rename") and any(self.moment.folder.glob(self.moment.pattern)):
            self.is_over = True
            self.moment.act()


@dataclass(frozen=True)
class AtLogLine:
    """Act as soon as something is logged."""

    text: str
    act: Send

    def __call__(self) -> None:
        make = logging.getLogRecordFactory()

        def listen(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            if self.text in record.getMessage():
                self.act()
            return record

        # another handler would keep `logging.basicConfig` from adding its own
        logging.setLogRecordFactory(listen)


@dataclass(frozen=True)
class FullDisk:
    """Allow no file larger than some bytes; one that grows beyond is an error, or the end in the middle of writing."""

    largest_file: int
    kill: bool = False

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.largest_file, self.largest_file))
        if self.kill:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
