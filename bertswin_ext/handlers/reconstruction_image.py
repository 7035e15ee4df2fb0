"""Pictures of what a masked autoencoder saw and what it made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure

from bertswin_ext.handlers.engine_values import check_positive, scalar_metrics, scalar_outputs
from bertswin_ext.handlers.figures import save_epoch_png
from bertswin_ext.handlers.reconstruction_figure import check_range, check_spacing, reconstruction_figure
from bertswin_ext.handlers.tensorboard import LazyWriter

__all__ = ["ReconstructionImageHandler"]


class ReconstructionImageHandler:
    """Write a picture of the first volumes of every validation.

    Every volume gives three rows (sagittal, coronal and axial through its centre) and four columns: the original, what
    the encoder saw (hidden tokens are blue-grey, air is black), the full output of the network, and the prediction
    pasted into the visible part. The files are ``epoch_0003.png`` and, always the newest, ``latest.png``. Only rank 0
    writes.

    Args:
        output_dir: folder of the pictures.
        patch_size: edge of a token in voxels.
        num_samples: volumes per picture.
        display_range: values shown as black and white, in units of the network; the default shows soft tissue and bone
            of volumes normalised with the voxel contract.
        spacing_mm: edge of a voxel, one number or three for i, j, k; only their ratios matter.
        interval: keep a numbered picture of every ``interval``-th epoch; ``latest.png`` is written in all of them.
        log_dir: folder of TensorBoard files that get the picture as well; by default there are none.

    Raises:
        ValueError: When ``patch_size``, ``num_samples`` or ``interval`` is smaller than 1, ``display_range`` is not
            increasing, or ``spacing_mm`` is not one or three positive numbers.

    Example:
        >>> from bertswin_ext.handlers.reconstruction_image import ReconstructionImageHandler
        >>> pictures = ReconstructionImageHandler("out/reconstructions", patch_size=16)
        >>> pictures.attach(Engine(lambda engine, batch: {}))
    """

    def __init__(
        self,
        output_dir: str | Path,
        patch_size: int,
        num_samples: int = 2,
        display_range: tuple[float, float] = (-1.7, 3.5),
        spacing_mm: float | Sequence[float] = 1.0,
        interval: int = 1,
        log_dir: str | Path | None = None,
    ) -> None:
        for name, value in {"patch_size": patch_size, "num_samples": num_samples, "interval": interval}.items():
            check_positive(name, value)
        check_range(display_range)
        self.output_dir = Path(output_dir)
        self.patch_size = patch_size
        self.num_samples = num_samples
        self.display_range = display_range
        self.spacing_mm = check_spacing(spacing_mm)
        self.interval = interval
        self._writer = None if log_dir is None else LazyWriter(log_dir)
        self._samples: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

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
        """Copy the first volumes to the CPU."""
        missing = self.num_samples - sum(len(image) for image, _, _ in self._samples)
        if missing > 0 and idist.get_rank() == 0:
            image, reconstruction, masked = (_to_cpu(tensor[:missing]) for tensor in _read_output(engine))
            self._samples.append((image, reconstruction, masked))

    def _epoch_completed(self, engine: Engine) -> None:
        """Draw the samples and write the files."""
        if idist.get_rank() != 0 or not self._samples:
            return
        epoch = int(engine.state.epoch)  # the trainer's, `ValidationHandler` hands it on
        image, reconstruction, masked = (torch.cat(tensors) for tensors in zip(*self._samples, strict=True))
        self._samples = []
        figure = reconstruction_figure(
            image,
            reconstruction,
            masked,
            self.patch_size,
            display_range=self.display_range,
            spacing_mm=self.spacing_mm,
            title=_title(engine, epoch),
        )
        self._write(figure, epoch)

    def _write(self, figure: Figure, epoch: int) -> None:
        """Write the picture to the folder and to TensorBoard."""
        is_kept = epoch % self.interval == 0
        save_epoch_png(figure, self.output_dir, epoch if is_kept else None)
        if self._writer is not None:
            self._writer.add_picture("reconstruction", figure, epoch)


def _read_output(engine: Engine) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return image, reconstruction and mask of the last iteration."""
    output = engine.state.output
    prediction = output.get("pred") if isinstance(output, Mapping) else None
    if not isinstance(prediction, Mapping) or not {"reconstruction", "masked"} <= set(prediction):
        found = sorted(prediction) if isinstance(prediction, Mapping) else type(output).__name__
        raise TypeError(
            "`engine.state.output` must be {'image': ..., 'pred': {'reconstruction': ..., 'masked': ...}}, "
            f"got {found}. Use a masked autoencoder and decollate=False in the evaluator."
        )
    return output["image"], prediction["reconstruction"], prediction["masked"]


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor to the CPU as a plain one; volumes in single precision."""
    dtype = torch.bool if tensor.dtype == torch.bool else torch.float32
    return tensor.detach().as_subclass(torch.Tensor).to("cpu", dtype, copy=True)


def _title(engine: Engine, epoch: int) -> str:
    """Name the epoch and up to four metrics, or the loss."""
    loss = scalar_outputs(engine).get("loss")
    numbers = scalar_metrics(engine) or ({} if loss is None else {"loss": float(loss)})
    return "   ".join([f"epoch {epoch}", *(f"{name} {value:.4g}" for name, value in list(numbers.items())[:4])])
