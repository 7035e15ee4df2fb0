"""Pictures of what a network makes of the first volumes of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from bertswin_ext.evaluation.case_gallery import gallery_figure
from bertswin_ext.evaluation.case_planes import MARGIN_MM, CasePlanes, cut_planes, most_anatomy
from bertswin_ext.handlers.engine_values import check_positive, scalar_metrics
from bertswin_ext.handlers.figures import save_epoch_png
from bertswin_ext.handlers.segmentation_output import SegmentedVolume, segmented_volumes
from bertswin_ext.handlers.tensorboard import LazyWriter
from bertswin_ext.voxels import VOXELS

__all__ = ["SegmentationImageHandler"]


class SegmentationImageHandler:
    """Write a picture of the first volumes of every validation: three planes each, with the contours of the classes.

    The planes are those that show most of the reference, so they stay the same from epoch to epoch. The files are
    ``epoch_0003.png`` and, always the newest, ``latest.png``. Only rank 0 writes.

    Args:
        output_dir: folder of the pictures.
        class_names: names of the classes, the background first.
        num_samples: volumes per picture.
        spacing_mm: edges of a voxel along the axes of the tensors; None takes them from the labels' affine.
        mean_hu: what the images' 0 stands for in HU.
        std_hu: what the images' 1 is above that; ``mean_hu`` 0 and ``std_hu`` 1 are for images in HU.
        interval: keep a numbered picture of every ``interval``-th epoch; ``latest.png`` is written in all of them.
        log_dir: folder of TensorBoard files that get the picture as well; by default there are none.
        title: heading where there are no epochs, as in inference; then ``latest.png`` is the only picture.

    Raises:
        ValueError: When ``num_samples`` or ``interval`` is smaller than 1; later, when a sample has no image.

    Example:
        >>> pictures = SegmentationImageHandler("out/segmentations", ["background", "mandible", "skull"])
        >>> pictures.attach(Engine(lambda engine, batch: []))
    """

    def __init__(
        self,
        output_dir: str | Path,
        class_names: Sequence[str],
        num_samples: int = 2,
        spacing_mm: Sequence[float] | None = None,
        mean_hu: float = VOXELS.mean_hu,
        std_hu: float = VOXELS.std_hu,
        interval: int = 1,
        log_dir: str | Path | None = None,
        title: str = "",
    ) -> None:
        for name, value in {"num_samples": num_samples, "interval": interval}.items():
            check_positive(name, value)
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.num_samples = num_samples
        self.spacing_mm = spacing_mm
        self.mean_hu, self.std_hu = mean_hu, std_hu
        self.interval = interval
        self._writer = None if log_dir is None else LazyWriter(log_dir)
        self.title = title
        self._samples: list[CasePlanes] = []

    def attach(self, engine: Engine) -> None:
        """Register the handler with the evaluator.

        Args:
            engine: the validation engine.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)

    def _epoch_started(self, _engine: Engine) -> None:
        """Forget the samples of a validation that did not end."""
        self._samples = []

    def _iteration_completed(self, engine: Engine) -> None:
        """Keep planes of the first volumes."""
        missing = self.num_samples - len(self._samples)
        if missing > 0 and idist.get_rank() == 0:
            volumes = segmented_volumes(engine.state.output, self.spacing_mm)[:missing]
            self._samples += [self._planes(volume) for volume in volumes]

    def _planes(self, volume: SegmentedVolume) -> CasePlanes:
        """The planes of a volume that show most of its anatomy."""
        if volume.image is None:
            raise ValueError("Every sample must have an `image` to be drawn. Keep it in the evaluator's output.")
        prediction = volume.prediction.astype(np.uint8)
        reference = None if volume.reference is None else volume.reference.astype(np.uint8)
        focus = most_anatomy(prediction if reference is None else reference)
        image_hu = volume.image * self.std_hu + self.mean_hu
        return cut_planes(image_hu, prediction, reference, volume.spacing_mm, focus, margin_mm=MARGIN_MM)

    def _epoch_completed(self, engine: Engine) -> None:
        """Draw the samples and write the files."""
        if idist.get_rank() != 0 or not self._samples:
            return
        epoch = int(engine.state.epoch)  # the trainer's, `ValidationHandler` hands it on
        samples, self._samples = self._samples, []
        title = self.title or _title(engine, epoch)
        self._write(gallery_figure(samples, self.class_names, title), epoch)

    def _write(self, figure: Figure, epoch: int) -> None:
        """Write the picture to the folder and to TensorBoard."""
        is_kept = not self.title and epoch % self.interval == 0
        save_epoch_png(figure, self.output_dir, epoch if is_kept else None)
        if self._writer is not None:
            self._writer.add_picture("segmentation", figure, epoch)


def _title(engine: Engine, epoch: int) -> str:
    """Name the epoch and up to four metrics."""
    numbers = list(scalar_metrics(engine).items())[:4]
    return "   ".join([f"epoch {epoch}", *(f"{name} {value:.4g}" for name, value in numbers)])
