"""Scans one after the other, each through a pre-trained network joint by joint; a faulty scan does not end the run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ignite.engine import Engine
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.transforms import Transform

from bertswin_ext.deployment.joint_cube import CutJointCube, JointCube
from bertswin_ext.deployment.joint_search import JointSearch
from bertswin_ext.deployment.scan_joints import ScanJoint
from bertswin_ext.errors import fault_of_user, listed_under

__all__ = ["CubesOfScan", "ScanCubes", "Where"]

logger = logging.getLogger(__name__)

Where = Literal["joints", "centre"]


@dataclass
class CubesOfScan:
    """A scan and what the network made of its joints.

    Attributes:
        item: the scan's item.
        cubes: what the network was shown.
        outputs: what the inferer gave for each, on the CPU.
        error: why there is nothing.
    """

    item: Mapping[Hashable, Any]
    cubes: list[JointCube] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    error: str | None = None

    @property
    def name(self) -> str:
        """The scan's folder, and its name in messages."""
        return str(self.item["name"])

    @property
    def patient(self) -> str:
        """Whose scan it is, where that is known."""
        return str(self.item.get("patient", ""))

    @property
    def cube_names(self) -> list[str]:
        """Names of the cubes in files' names; two joints of one side are numbered."""
        seen: Counter[str] = Counter()
        names = []
        for cube in self.cubes:
            seen[cube.name] += 1
            names.append(cube.name if seen[cube.name] == 1 else f"{cube.name}_{seen[cube.name]}")
        return names


class ScanCubes:
    """What an evaluator does with an item: read the scan, find its joints, show each to the network.

    It is the ``iteration_update`` of `monai.engines.SupervisedEvaluator`; the output of an iteration is `CubesOfScan`.
    Joints are those that the item names, else those that are found. A scan is taken whole or not at all: a fault of one
    of its joints is the scan's. Faults are logged and kept; end the run with `raise_faults`.

    Args:
        preprocessing: from an item to the scan ``image`` (1, i, j, k) in HU, with axes along RAS.
        cut: makes the cubes.
        search: tells the joints of a scan.
        where: ``"joints"``, or ``"centre"`` for the one cube in the scan's middle.

    Raises:
        ValueError: ``where`` is another.

    Example:
        >>> step = ScanCubes(Compose([...]), CutJointCube(network, record))  # doctest: +SKIP
        >>> evaluator = SupervisedEvaluator(device, items, network, iteration_update=step)  # doctest: +SKIP
    """

    def __init__(
        self,
        preprocessing: Transform,
        cut: CutJointCube,
        search: JointSearch,
        where: Where = "joints",
    ) -> None:
        if where not in get_args(Where):
            raise ValueError(f"`where` must be 'joints' or 'centre', got {where!r}.")
        self.preprocessing = preprocessing
        self.cut = cut
        self.search = search
        self.where = where
        self.num_scans = 0
        self.faults: list[str] = []

    def __call__(self, engine: Engine, item: Mapping[Hashable, Any]) -> CubesOfScan:
        """Take one scan; the evaluator has ``inferer``, ``network`` and a device."""
        scan = engine.state.output = CubesOfScan(item)
        self.num_scans += 1
        try:
            scan.cubes = self._cubes(item)
            scan.outputs = [_output(engine, cube) for cube in scan.cubes]
        except Exception as error:
            fault = fault_of_user(error)
            if fault is None:
                raise
            scan = engine.state.output = CubesOfScan(item, error=fault)
            self.faults.append(f"{scan.name}: {fault}")
            logger.error("%s", self.faults[-1])
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return scan

    def raise_faults(self) -> None:
        """Say which scans came to nothing, at the end of a run.

        Raises:
            ValueError: there are some.
        """
        if self.faults:
            others = ", the others are written" if len(self.faults) < self.num_scans else ""
            raise ValueError(
                listed_under(f"{len(self.faults)} of {self.num_scans} scans came to nothing{others}", self.faults)
            )

    def _cubes(self, item: Mapping[Hashable, Any]) -> list[JointCube]:
        """The cubes of a scan."""
        data: dict[Hashable, Any] = self.preprocessing(dict(item))
        scan = data["image"]
        return [self.cut(scan, joint, item.get("fov")) for joint in self._joints(scan, str(item["name"]))]

    def _joints(self, scan: MetaTensor, name: str) -> list[ScanJoint]:
        """The joints to show."""
        if self.where == "centre":
            return [ScanJoint(None, None)]
        found = self.search(scan)
        for warning in found.warnings:
            logger.warning("%s: %s", name, warning)
        return found.joints


def _output(engine: Engine, cube: JointCube) -> Any:
    """What the inferer gives for one cube."""
    device = engine.state.device
    with engine.mode(engine.network):
        output = engine.inferer(cube.image[None].to(device), engine.network, cube.valid[None].to(device))
    if isinstance(output, Mapping):
        return {key: value.cpu() for key, value in output.items()}
    return output.cpu()
