"""A run's model becomes the bundle's own."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import torch.distributed as dist

from bertswin_ext.files import written_whole

__all__ = ["publish_model"]

logger = logging.getLogger(__name__)


def publish_model(path: str | Path, target: str | Path | None) -> None:
    """Put the weights of a run where inference and MONAI Label read them, and keep the weights that were there.

    Earlier weights stay beside the new ones, as ``<name>_before_1.pt``, ``<name>_before_2.pt``, ...: MONAI Label offers
    every ``.pt`` of the folder.

    Args:
        path: weights of the run.
        target: the bundle's weights; nothing leaves them as they are.

    Raises:
        ValueError: the run has written no weights.
    """
    if not target or (dist.is_initialized() and dist.get_rank() != 0):
        return
    source, target = Path(path), Path(target)
    if not source.is_file():
        raise ValueError(f"{source} does not exist: the run has saved no weights. See its log.")
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        kept = _free_name(target)
        with written_whole(kept) as temporary:
            shutil.copyfile(target, temporary)
        logger.info("the weights that were in %s are kept as %s", target, kept.name)
    with written_whole(target) as temporary:
        shutil.copyfile(source, temporary)
    logger.info("weights of this run written to %s", target)


def _free_name(target: Path) -> Path:
    """Name for the weights that are replaced, counting up."""
    number = 1
    while (kept := target.with_stem(f"{target.stem}_before_{number}")).exists():
        number += 1
    return kept
