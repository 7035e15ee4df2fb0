"""A picture of what a masked autoencoder makes of every joint, and how far off it is."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from bertswin_ext.deployment.joint_cube import JointCube
from bertswin_ext.deployment.pretrained_autoencoder import PretrainedAutoencoder
from bertswin_ext.deployment.scan_cubes import CubesOfScan
from bertswin_ext.files import written_whole
from bertswin_ext.handlers.figures import save_png
from bertswin_ext.handlers.joint_files import JointFilesHandler, Row
from bertswin_ext.handlers.reconstruction_figure import check_range, reconstruction_figure
from bertswin_ext.losses.masked import MaskedL2Loss
from bertswin_ext.losses.reconstruction import one_sample

__all__ = ["JointReconstructionsHandler"]

logger = logging.getLogger(__name__)

_COLUMNS = ("scan", "patient", "joint", "center_x_mm", "center_y_mm", "center_z_mm", "mask", "hidden_share")
_FIGURES = ("masked_mse", "masked_rmse_hu")
_AXIS_I = 2  # of a batch (b, c, i, j, k)


class JointReconstructionsHandler(JointFilesHandler):
    """Write ``<scan>/<joint>_reconstruction.png`` as soon as a scan is done, and ``metrics.csv`` of all so far.

    A picture has three rows, its planes, for every mask: original, what the network saw, its output, and the output
    pasted into what it saw. Left joints, which the network sees mirrored, are drawn as they are. The table has one row
    for every mask: mean squared error over the hidden tokens in the scan, in the network's units, and its root in HU.

    Args:
        output_dir: folder of the files.
        model: what reconstructs.
        window_hu: HU shown as black and white.

    Raises:
        ValueError: ``window_hu`` is not increasing.

    Example:
        >>> handler = JointReconstructionsHandler("out", load_autoencoder("model.pt", True))  # doctest: +SKIP
        >>> handler.attach(evaluator)  # of `bertswin_ext.deployment.scan_cubes.ScanCubes`  # doctest: +SKIP
    """

    def __init__(
        self, output_dir: str | Path, model: PretrainedAutoencoder, window_hu: Sequence[float] = (-1000.0, 2000.0)
    ) -> None:
        check_range(window_hu)
        low, high = ((hu - model.record.mean_hu) / model.record.std_hu for hu in window_hu)
        super().__init__(output_dir, model)
        self.display_range = (low, high)
        self.l2 = MaskedL2Loss(model.network.patch_size)

    def write_joint(self, scan: CubesOfScan, name: str, cube: JointCube, output: dict[str, Tensor]) -> list[Row]:
        """Draw one joint, see `JointFilesHandler`."""
        errors, file = self._errors(cube, output), f"{scan.name}/{name}_reconstruction.png"
        self._draw(cube, output, self.output_dir / file, f"{scan.name}, {name}", errors)
        logger.info("%s written, masked MSE %s", file, ", ".join(f"{error:.4g}" for error in errors))
        return [self._row(scan, cube, output, mask, error) for mask, error in enumerate(errors)]

    def write_table(self, rows: list[Row]) -> None:
        """Write ``metrics.csv``."""
        path = self.output_dir / "metrics.csv"
        with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*_COLUMNS, *_FIGURES], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    def _errors(self, cube: JointCube, output: dict[str, Tensor]) -> list[float]:
        """Mean squared error of every mask."""
        target = {"image": cube.image[None].cpu(), "valid": cube.valid[None].cpu()}
        masks = range(len(output["masked"]))
        return [self.l2(one_sample(output, mask), target).item() for mask in masks]

    def _row(self, scan: CubesOfScan, cube: JointCube, output: dict[str, Tensor], mask: int, error: float) -> Row:
        """One row of the table."""
        hidden = output["masked"][mask] & cube.valid.cpu()
        about = [scan.name, scan.patient, cube.joint.joint or "", *(f"{number:.3f}" for number in cube.center_mm)]
        numbers = [str(mask), f"{float(hidden.sum() / cube.valid.sum()):.4f}"]
        figures = [f"{error:.6g}", f"{error**0.5 * self.model.record.std_hu:.6g}"]
        return dict(zip((*_COLUMNS, *_FIGURES), [*about, *numbers, *figures], strict=True))

    def _draw(
        self, cube: JointCube, output: dict[str, Tensor], path: Path, title: str, errors: Sequence[float]
    ) -> None:
        """Draw one joint."""
        image = cube.image[None].cpu().expand_as(output["reconstruction"])
        reconstruction, masked = output["reconstruction"].float(), output["masked"]
        if cube.mirrored:
            image, reconstruction = image.flip(_AXIS_I), reconstruction.flip(_AXIS_I)
            masked = masked.unflatten(1, cube.grid_size).flip(1).flatten(1)
        figure = reconstruction_figure(
            image,
            reconstruction,
            masked,
            cube.patch_size,
            display_range=self.display_range,
            spacing_mm=self.model.record.spacing_mm,
            title=f"{title}: masked MSE {', '.join(f'{error:.3g}' for error in errors)}",
        )
        save_png(figure, path)
