"""The committed state of a repository: what a release is built from."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

__all__ = ["Commit"]

# a user's settings must not change what comes out
_PLAIN = ("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.attributesFile=/dev/null")


@dataclass(frozen=True)
class Commit:
    """One commit of a repository.

    Attributes:
        repository: its top folder.
        name: the commit, 40 hexadecimal digits.
        time: when it was made, seconds since 1970.
    """

    repository: Path
    name: str
    time: int

    @classmethod
    def head(cls, repository: str | Path = ".", allow_dirty: bool = False) -> Commit:
        """The commit that a working tree stands on.

        Args:
            repository: a folder of the working tree.
            allow_dirty: take the commit although there are changes beside it; they are left out.

        Raises:
            ValueError: the folder is in no repository, there is no commit, or there are changes.
        """
        top = Path(_git(Path(repository), "rev-parse", "--show-toplevel").strip())
        changes = _git(top, "status", "--porcelain").splitlines()
        if changes and not allow_dirty:
            more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
            raise ValueError(
                f"{top} must have no changes beside its last commit: a release is built from the commit alone. Found "
                f"{', '.join(change[3:] for change in changes[:3])}{more}. Commit them, or leave them out with "
                "`--allow_dirty true`."
            )
        name, time = _git(top, "log", "-1", "--format=%H %ct").split()
        return cls(top, name, int(time))

    def export(self, folder: str | Path, paths: Sequence[str] = ()) -> None:
        """Write the committed files.

        Args:
            folder: where to; the paths below it are those of the repository.
            paths: files and folders of the repository; nothing means all.

        Raises:
            ValueError: a path is not committed, or a file is a link.
        """
        done = _run(self.repository, "archive", "--format=tar", self.name, "--", *paths)
        if done.returncode:
            raise ValueError(f"{self.repository} cannot be exported: {_first_line(done.stderr)}.")
        with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
            links = [member.name for member in archive if member.issym() or member.islnk()]
            if links:
                raise ValueError(
                    f"A release must have no links, found {', '.join(links)}. Commit the files themselves."
                )
            archive.extractall(folder, filter="data")

    def text(self, path: str) -> str | None:
        """Content of a committed file, or None where there is none."""
        found = _run(self.repository, "show", f"{self.name}:{path}")
        return None if found.returncode else found.stdout.decode("utf-8")


def _git(folder: Path, *arguments: str) -> str:
    """What git says."""
    answer = _run(folder, *arguments)
    if answer.returncode:
        reason = _first_line(answer.stderr)
        raise ValueError(f"{folder} must be in a git repository with a commit: {reason}. Run it in a clone.")
    return answer.stdout.decode("utf-8")


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """A git command in a folder."""
    command = ["git", *_PLAIN, "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError as error:
        raise ValueError("A release is built from a git repository. Install git.") from error


def _first_line(text: bytes) -> str:
    """The first line of a message."""
    return text.decode("utf-8", "replace").strip().split("\n")[0]
