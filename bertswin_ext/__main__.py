"""Command line: ``python -m bertswin_ext COMMAND --help``."""

from __future__ import annotations

import inspect
import logging
import shlex
import sys
from collections.abc import Callable, Sequence

import fire

__all__ = ["COMMANDS", "main"]


def phantom(
    output: str,
    count: int = 8,
    size: int | Sequence[int] = 128,
    spacing_mm: float | Sequence[float] = 0.4,
    oblique_deg: float = 0.0,
    seed: int = 0,
    num_folds: int = 5,
) -> str:
    """Write synthetic cone-beam CT of temporomandibular joints, with labels and a datalist to train on.

    Run it as: python -m bertswin_ext phantom --output phantoms --count 20

    The directory appears when everything is written. If it holds the same phantoms already it is left alone.

    Args:
        output: directory for images, labels and datalist.json; new, empty, or of an earlier run.
        count: number of phantoms, each a patient of its own.
        size: voxels per axis, 128 or "(128, 128, 96)" for left-right, back-front, down-up; at least 16.
        spacing_mm: edge of a voxel in mm, 0.4 or "(0.4, 0.4, 0.5)".
        oblique_deg: largest tilt of the voxel grid in degrees, 0 to 30.
        seed: another seed gives other joints.
        num_folds: cross-validation folds.

    Returns:
        The path of the datalist and the command that trains on it.
    """
    from bertswin_ext.data.phantom_files import write_phantoms

    if isinstance(output, bool):
        raise TypeError("`--output` must be a directory, got none. Use --output phantoms, say.")
    datalist = write_phantoms(
        str(output), count, size, spacing_mm, oblique_deg=oblique_deg, seed=seed, num_folds=num_folds
    )
    train = "python -m monai.bundle run --config_file bundles/pretrain/configs/train.json"
    return f"{datalist}\nTo train on it: {train} --dataset_dir {shlex.quote(str(datalist))}"


def check(
    dataset: str,
    fold: int = 0,
    spacing_mm: float | Sequence[float] | None = None,
    img_size: int | Sequence[int] | None = None,
) -> None:
    """Open every volume of a data set before a long run does, and write a table of what was found.

    Run it as: python -m bertswin_ext check --dataset datalist.json

    Args:
        dataset: a .json datalist, or a folder of volumes.
        fold: fold to validate on.
        spacing_mm: edge of a voxel in mm that the run resamples to, 0.4 or "(0.4, 0.4, 0.5)"; with --img_size.
        img_size: voxels per axis of the run's crop, 96 or "(96, 96, 64)": smaller volumes are faults.
    """
    from bertswin_ext.data.datalist_check import check_datalist

    if isinstance(dataset, bool):
        raise TypeError("`--dataset` must be a datalist or a folder, got none. Use --dataset datalist.json, say.")
    check_datalist(str(dataset), fold=fold, spacing_mm=spacing_mm, img_size=img_size)


COMMANDS: dict[str, Callable[..., object]] = {"phantom": phantom, "check": check}


def _check_flags(arguments: Sequence[str]) -> None:
    """Refuse a mistyped flag at once: fire would run the whole command before it complains."""
    if not arguments or arguments[0] not in COMMANDS:
        return
    command, *rest = arguments
    known = list(inspect.signature(COMMANDS[command]).parameters)
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
    except (ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
