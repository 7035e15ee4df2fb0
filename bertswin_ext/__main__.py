"""Command line: ``python -m bertswin_ext COMMAND --help``."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Sequence

import fire

from bertswin_ext import commands

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Callable[..., object]] = {name: getattr(commands, name) for name in commands.__all__}


def _check_flags(arguments: Sequence[str]) -> None:
    """Refuse a mistyped flag at once: fire would run the whole command before it complains."""
    if not arguments:
        return
    # fire takes import-weights for import_weights
    command, rest = arguments[0].replace("-", "_"), arguments[1:]
    if command not in COMMANDS:
        return
    parameters = inspect.signature(COMMANDS[command]).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        # it takes a configuration's entries, which it knows better
        return
    known = list(parameters)
    for argument in rest:
        if argument == "--":
            return
        name = argument[2:].split("=")[0].replace("-", "_")
        if argument.startswith("--") and name not in {*known, "help"} | {f"no{k}" for k in known}:
            flags = " ".join(f"--{k}" for k in known)
            raise ValueError(f"`{command}` must be given flags it has, got {argument}. Use {flags}.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; a user's error is one message on stderr and exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _check_flags(arguments)
        fire.Fire(COMMANDS, command=arguments, name="bertswin_ext")
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
