"""The first thing a run does: check, make room, say what it is."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
from pathlib import Path
from types import TracebackType

import monai
import numpy as np
import torch
import torch.distributed as dist
from monai.utils import set_determinism

import bertswin_ext
from bertswin_ext.errors import root_cause
from bertswin_ext.runs.config_check import check_config

__all__ = ["start_run"]

logger = logging.getLogger(__name__)

_LOG_MARK = f" {__name__}: bertswin-ext "
_PREVIOUS = "previous"
_LOG = "run.log"
# all that a run writes; nothing else is ever moved
_WRITTEN = (
    "checkpoints",
    "reconstructions",
    "segmentations",
    "tensorboard",
    "profile",
    "metrics.csv",
    "model.pt",
    "encoder.pt",
    "adapters.pt",
    "evaluation",
    "progress.png",
    "run_report.json",
    "stem",
    "stem.json",
    _LOG,
)


def start_run(
    bundle_root: str | Path, output_dir: str | Path, seed: int = 0, resume: bool = False, keep_output: bool = False
) -> None:
    """Check the configuration, seed, and prepare the output folder with its log file.

    A new run does not write over an old one: what the old run wrote is moved to ``previous/<number>`` in the same
    folder. Everything else in the folder stays where it is.

    Args:
        bundle_root: folder of the bundle.
        output_dir: folder of the run.
        seed: seed of all random numbers; every process gets its own.
        resume: the run continues what is in the folder.
        keep_output: add to what is in the folder, for evaluation and export.

    Raises:
        ValueError: the configuration has faults, or several processes run one that is for one.
    """
    sys.excepthook = _show_error
    # the engines' own lines say less than the handlers' and read as if every validation resumed a run
    logging.getLogger("ignite").setLevel(logging.WARNING)
    check_config(bundle_root)
    _check_processes()
    rank = dist.get_rank() if dist.is_initialized() else 0
    set_determinism(seed=seed + rank)
    if rank == 0:
        folder = Path(output_dir)
        moved = None if resume or keep_output else _make_room(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _log_to(folder / _LOG)
        logger.info(_description())
        if moved is not None:
            logger.info("an earlier run was in %s: moved to %s", folder, moved)
    else:
        logging.getLogger().setLevel(logging.WARNING)
    if dist.is_initialized():
        dist.barrier()


def _check_processes() -> None:
    """Several processes that do not know of each other would write over each other."""
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes > 1 and not dist.is_initialized():
        raise ValueError(
            f"{num_processes} processes were started, but the configuration is for one. To train, add "
            "multi_gpu_train.json to `--config_file`; evaluation and export run in one process, without torchrun."
        )


def _make_room(folder: Path) -> Path | None:
    """Move aside what an earlier run wrote."""
    if not _is_our_log(folder / _LOG):
        # the folder is not a run's: leave what others put there
        return None
    previous = folder / _PREVIOUS
    number = 1 + max((int(path.name) for path in previous.glob("[0-9]*") if path.name.isdigit()), default=0)
    target = previous / str(number)
    target.mkdir(parents=True)
    for name in _WRITTEN:
        if (folder / name).exists():
            shutil.move(folder / name, target / name)
    return target


def _is_our_log(path: Path) -> bool:
    """Whether a file is the log of a run, which begins with the run's description."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _LOG_MARK in file.readline()


def _log_to(path: Path) -> None:
    """Copy the log into a file of the run."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).name == path.name:
            root.removeHandler(handler)
            handler.close()
    file_handler = logging.FileHandler(path, encoding="utf-8")
    file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(file_handler)
    if root.level > logging.INFO or root.level == logging.NOTSET:
        root.setLevel(logging.INFO)


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The traceback as ever, and under it what went wrong, which MONAI wraps in errors of its own."""
    sys.__excepthook__(kind, error, trace)
    cause = root_cause(error)
    if cause is not error:
        sys.stderr.write(f"\nThe cause: {cause}\n")


def _description() -> str:
    """Versions and device on one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    ranks = f", {dist.get_world_size()} processes" if dist.is_initialized() else ""
    return (
        f"bertswin-ext {bertswin_ext.__version__}, MONAI {monai.__version__}, torch {torch.__version__}, "
        f"NumPy {np.__version__}, Python {sys.version.split()[0]} on {platform.system()}; {device}{ranks}"
    )
