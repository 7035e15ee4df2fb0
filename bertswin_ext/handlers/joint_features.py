"""The features of every joint as files."""

from __future__ import annotations

import logging

from torch import Tensor

from bertswin_ext.deployment.joint_cube import JointCube
from bertswin_ext.deployment.scan_cubes import CubesOfScan
from bertswin_ext.handlers.joint_files import JointFilesHandler, Row
from bertswin_ext.outputs.feature_files import JointFeatures, feature_row, write_feature_table, write_features

__all__ = ["JointFeaturesHandler"]

logger = logging.getLogger(__name__)


class JointFeaturesHandler(JointFilesHandler):
    """Write ``<scan>/<joint>.npz`` as soon as a scan is done, and ``features.csv`` of all scans so far.

    Args:
        output_dir: folder of the files.
        model: what the features come from.

    Example:
        >>> handler = JointFeaturesHandler("out", load_autoencoder("model.pt"))  # doctest: +SKIP
        >>> handler.attach(evaluator)  # of `bertswin_ext.deployment.scan_cubes.ScanCubes`  # doctest: +SKIP
    """

    def write_joint(self, scan: CubesOfScan, name: str, cube: JointCube, output: Tensor) -> list[Row]:
        """Write the features of one joint, see `JointFilesHandler`."""
        features, file = self._features(scan, cube, output), f"{scan.name}/{name}.npz"
        write_features(self.output_dir / file, features)
        logger.info("%s written, %d tokens of %d features", file, *features.tokens.shape)
        return [feature_row(features, file)]

    def write_table(self, rows: list[Row]) -> None:
        """Write ``features.csv``."""
        write_feature_table(self.output_dir / "features.csv", rows)

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
