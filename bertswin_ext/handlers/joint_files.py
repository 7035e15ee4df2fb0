"""What is written of every joint that a network was shown, and a table of all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from bertswin_ext.deployment.joint_cube import JointCube
from bertswin_ext.deployment.pretrained_autoencoder import PretrainedAutoencoder
from bertswin_ext.deployment.scan_cubes import CubesOfScan

__all__ = ["JointFilesHandler", "Row"]

Row = dict[str, str]


class JointFilesHandler(ABC):
    """Write the files of a scan's joints as soon as the scan is done, and the table of all joints so far.

    Args:
        output_dir: folder of the files.
        model: what the joints were shown to.
    """

    def __init__(self, output_dir: str | Path, model: PretrainedAutoencoder) -> None:
        self.output_dir = Path(output_dir)
        self.model = model
        self._rows: list[Row] = []

    def attach(self, engine: Engine) -> None:
        """Write while the evaluator runs, whose ``iteration_update`` is `ScanCubes`."""
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)

    @abstractmethod
    def write_joint(self, scan: CubesOfScan, name: str, cube: JointCube, output: Any) -> list[Row]:
        """Write the files of one joint.

        Args:
            scan: its scan.
            name: of the joint in files' names.
            cube: what the network was shown.
            output: what the inferer gave.

        Returns:
            Rows of the table.
        """

    @abstractmethod
    def write_table(self, rows: list[Row]) -> None:
        """Write the table, whole."""

    def _started(self, _engine: Engine) -> None:
        """Begin a new table."""
        self._rows = []
        self.write_table(self._rows)

    def _iteration_completed(self, engine: Engine) -> None:
        """Write the joints of a scan; what an interrupted run has done is in the table."""
        scan: CubesOfScan = engine.state.output
        for name, cube, output in zip(scan.cube_names, scan.cubes, scan.outputs, strict=True):
            self._rows += self.write_joint(scan, name, cube, output)
        self.write_table(self._rows)
