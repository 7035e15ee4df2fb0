"""Where the joints of a whole scan are, with how sure one can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from bertswin_ext.deployment.joint_peak import peak_of
from bertswin_ext.geometry import moved
from bertswin_ext.networks.joint_locator import JointLocator
from bertswin_ext.networks.record import AdaptationRecord, read_record
from bertswin_ext.networks.weights import load_weights
from bertswin_ext.transforms.coarse_volume import coarse_volume
from bertswin_ext.transforms.standardize import StandardizeHU

__all__ = ["MIN_CONFIDENCE", "FoundJoint", "JointFinder", "load_joint_finder"]

MIN_CONFIDENCE = 0.5
"""Joints found with less are not used unless asked for."""

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")  # the network's channels
_NEAREST_MM, _FURTHEST_MM = 75.0, 130.0  # from one joint of a head to the other
_LEVEL_MM = 45.0  # how much one may lie above or before the other


class FoundJoint(NamedTuple):
    """A joint and where it is.

    Attributes:
        joint: ``"left"`` or ``"right"``, the patient's.
        center_mm: position in the RAS world.
        confidence: 0 to 1, the network's probability that the scan shows this joint within 10 mm of here.
    """

    joint: Literal["left", "right"]
    center_mm: tuple[float, float, float]
    confidence: float


class JointFinder:
    """Find the joints of a scan from a coarse pass over all of it.

    Args:
        network: a trained `JointLocator`, or one that gives scores like it; it is set to evaluation.
        spacing_mm: edge of the coarse voxels that it learnt on.
        min_confidence: joints found with less are left out.

    Raises:
        ValueError: the least confidence is none.

    Example:
        >>> finder = JointFinder(JointLocator(channels=(4, 8)), spacing_mm=4.0, min_confidence=0.99)
        >>> finder(MetaTensor(torch.zeros(1, 16, 16, 16)))
        []
    """

    def __init__(self, network: nn.Module, spacing_mm: float, min_confidence: float = MIN_CONFIDENCE) -> None:
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"`min_confidence` must be from 0 to 1, got {min_confidence!r}. Use {MIN_CONFIDENCE}.")
        self.network = network.eval()
        self.spacing_mm = spacing_mm
        self.min_confidence = min_confidence

    def __call__(self, scan: Tensor) -> list[FoundJoint]:
        """The joints that are sure enough, left before right; none where the caller should ask for centres.

        Args:
            scan: HU (1, i, j, k), a `MetaTensor` with axes closest to RAS, of any spacing and tilt.
        """
        return [found for found in self.candidates(scan) if found.confidence >= self.min_confidence]

    @torch.no_grad()
    def candidates(self, scan: Tensor) -> list[FoundJoint]:
        """The likeliest place of either joint, left before right, however unlikely.

        Args:
            scan: as for the call.
        """
        coarse = coarse_volume(scan, self.spacing_mm)
        weight = next(self.network.parameters(), torch.empty(0))
        volume = StandardizeHU()(coarse.as_tensor()[None].to(weight.device))
        scores = self.network(volume)[0].float().cpu()
        found = [_in_world(joint, score, coarse, self.spacing_mm) for joint, score in zip(_SIDES, scores, strict=True)]
        return _as_a_pair(*found)


def load_joint_finder(
    path: str | Path, device: str | torch.device = "cpu", min_confidence: float = MIN_CONFIDENCE
) -> JointFinder:
    """Build the finder of a file of weights.

    Args:
        path: a file of a `JointLocator`, written by `save_network` with its record.
        device: where the network shall compute.
        min_confidence: as in `JointFinder`.

    Raises:
        ValueError: the file is unreadable, or holds another network.
    """
    record = read_record(path)
    if record.method != JointLocator.__name__:
        raise ValueError(
            f"{path} holds the weights of a {record.method}, not of a JointLocator. Give the locator's file."
        )
    network = JointLocator(**record.arguments)
    load_weights(network, path, record=AdaptationRecord.of(network, record.spacing_mm))
    return JointFinder(network.to(device), record.spacing_mm[0], min_confidence)


def _in_world(joint: Literal["left", "right"], scores: Tensor, coarse: MetaTensor, spacing_mm: float) -> FoundJoint:
    """The peak of one joint's scores as a place in the world."""
    index, confidence = peak_of(scores, spacing_mm)
    x, y, z = moved(coarse.affine.numpy(force=True), index).tolist()
    return FoundJoint(joint, (x, y, z), confidence)


def _as_a_pair(left: FoundJoint, right: FoundJoint) -> list[FoundJoint]:
    """Both joints, less sure where they cannot be the two of one head: then one of them at least is wrong."""
    if _is_plausible(left.center_mm, right.center_mm):
        return [left, right]
    a, b = left.confidence, right.confidence
    rest = max(1.0 - a * b, 1e-6)  # the probability that not both are right
    return [left._replace(confidence=a * (1.0 - b) / rest), right._replace(confidence=b * (1.0 - a) / rest)]


def _is_plausible(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two places can be the joints of one head that is roughly upright."""
    across, forward, up = (r - le for le, r in zip(left, right, strict=True))
    is_level = max(abs(forward), abs(up)) <= _LEVEL_MM
    return across > 0 and is_level and _NEAREST_MM <= math.hypot(across, forward, up) <= _FURTHEST_MM
