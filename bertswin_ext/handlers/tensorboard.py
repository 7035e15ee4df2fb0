"""TensorBoard's files, for the handlers that write some of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["LazyWriter"]


class LazyWriter:
    """TensorBoard's ``SummaryWriter``, opened with the first entry: where nothing is written, no file is left.

    Args:
        log_dir: folder of the TensorBoard files.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = Path(log_dir)
        self._writer: Any = None

    def open(self) -> Any:
        """The ``SummaryWriter``."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(log_dir=str(self.log_dir))
        return self._writer

    def add_picture(self, tag: str, figure: Figure, epoch: int) -> None:
        """Write a figure as a picture, and make it visible."""
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        self.open().add_image(tag, np.asarray(canvas.buffer_rgba())[..., :3], epoch, dataformats="HWC")
        self.flush()

    def flush(self) -> None:
        """Make what was written visible."""
        if self._writer is not None:
            self._writer.flush()
