"""The features of every joint as files."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import Tensor

from bertswin_ext.deployment.joint_cube import JointCube
from bertswin_ext.deployment.pretrained_autoencoder import PretrainedAutoencoder
from bertswin_ext.deployment.scan_cubes import CubesOfScan
from bertswin_ext.outputs.feature_files import JointFeatures, feature_row, write_feature_table, write_features

__all__ = ["JointFeaturesHandler"]

logger = logging.getLogger(__name__)


class JointFeaturesHandler:
    """Write ``<scan>/<joint>.npz`` as soon as a scan is done, and ``features.csv`` at the end.

    Args:
        output_dir: folder of the files.
        model: what the features come from.

    Example:
        >>> handler = JointFeaturesHandler("out", load_autoencoder("model.pt"))  # doctest: +SKIP
        >>> handler.attach(evaluator)  # of `bertswin_ext.deployment.scan_cubes.ScanCubes`  # doctest: +SKIP
    """

    def __init__(self, output_dir: str | Path, model: PretrainedAutoencoder) -> None:
        self.output_dir = Path(output_dir)
        self.model = model
        self._rows: list[dict[str, str]] = []

    def attach(self, engine: Engine) -> None:
        """Write while the evaluator runs, and at its end."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)

    def _started(self, _engine: Engine) -> None:
        """Begin a new table."""
        self._rows = []

    def _iteration_completed(self, engine: Engine) -> None:
        """Write the joints of a scan."""
        scan: CubesOfScan = engine.state.output
        for name, cube, output in zip(scan.cube_names, scan.cubes, scan.outputs, strict=True):
            features, file = self._features(scan, cube, output), f"{scan.name}/{name}.npz"
            write_features(self.output_dir / file, features)
            self._rows.append(feature_row(features, file))
            logger.info("%s written, %d tokens of %d features", file, *features.tokens.shape)

    def _completed(self, _engine: Engine) -> None:
        """Write the table."""
        write_feature_table(self.output_dir / "features.csv", self._rows)

    def _features(self, scan: CubesOfScan, cube: JointCube, output: Tensor) -> JointFeatures:
        """The encoder's output (1, h, gi, gj, gk) for a cube, and what is known of it."""
        return JointFeatures(
            scan=scan.name,
            patient=scan.patient,
            joint=cube.joint.joint or "",
            center_mm=cube.center_mm,
            confidence=cube.joint.confidence,
            mirrored=cube.mirrored,
            tokens=output[0].flatten(1).T.float().contiguous().numpy(),
            valid=cube.valid.numpy(force=True),
            positions_mm=cube.token_centers_mm,
            grid_size=cube.grid_size,
            spacing_mm=self.model.record.spacing_mm,
            model_sha256=self.model.sha256,
        )
