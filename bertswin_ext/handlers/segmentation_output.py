"""The segmented volumes that an evaluator puts out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from bertswin_ext.geometry import spacing_of

__all__ = ["SegmentedVolume", "segmented_volumes"]

Volume = npt.NDArray[Any]


@dataclass(frozen=True)
class SegmentedVolume:
    """One volume of an evaluator's output on the CPU, its axes in the order nearest to RAS.

    Attributes:
        image: what the network was given, (i, j, k), or None.
        prediction: label map (i, j, k).
        reference: label map (i, j, k), or None.
        spacing_mm: edges of a voxel along i, j, k.
    """

    image: Volume | None
    prediction: Volume
    reference: Volume | None
    spacing_mm: tuple[float, ...]


def segmented_volumes(output: Any, spacing_mm: Sequence[float] | None = None) -> list[SegmentedVolume]:
    """Read ``engine.state.output`` of an evaluator, decollated or not.

    Args:
        output: a list of ``{"pred": ..., "label": ..., "image": ...}``, or one such dictionary with a batch in each
            entry; ``label`` and ``image`` may be missing.
        spacing_mm: edges of a voxel along the axes of the tensors; None takes them from the affine.

    Shape:
        Every tensor is (1, i, j, k), in a batch (b, 1, i, j, k); ``pred`` and ``label`` are label maps.

    Returns:
        The volumes, in order. Axes are exchanged and turned round as the affine says, nothing is interpolated.

    Raises:
        TypeError: the output is something else.
        ValueError: ``pred`` is not a label map of one channel, or nothing tells the spacing.

    Example:
        >>> label = MetaTensor(torch.zeros(1, 4, 5, 6), affine=torch.diag(torch.tensor([-0.5, 1.0, 2.0, 1.0])))
        >>> segmented_volumes([{"pred": label, "label": label}])[0].spacing_mm
        (0.5, 1.0, 2.0)
    """
    return [_volume(sample, spacing_mm) for sample in _samples(output)]


def _samples(output: Any) -> Iterator[Mapping[str, Any]]:
    """The dictionaries of single samples."""
    samples = [output] if isinstance(output, Mapping) else output
    if not isinstance(samples, list) or not all(isinstance(s, Mapping) and "pred" in s for s in samples):
        found = sorted(map(str, output)) if isinstance(output, Mapping) else type(output).__name__
        raise TypeError(
            "`engine.state.output` must be a list of {'image': ..., 'label': ..., 'pred': ...}, or one of them with a "
            f"batch in each entry, got {found}. Use a segmentation network in MONAI's SupervisedEvaluator."
        )
    if not isinstance(output, Mapping):
        yield from samples
        return
    tensors = {key: output[key] for key in ("image", "label", "pred") if isinstance(output.get(key), torch.Tensor)}
    for sample in range(len(tensors["pred"])):
        yield {key: tensor[sample] for key, tensor in tensors.items()}


def _volume(sample: Mapping[str, Any], spacing_mm: Sequence[float] | None) -> SegmentedVolume:
    """One sample."""
    tensors = {key: sample[key] for key in ("image", "label", "pred") if sample.get(key) is not None}
    arrays = {key: _array(key, tensor) for key, tensor in tensors.items()}
    affine = _affine(tensors, spacing_mm)
    spacing = spacing_of(affine) if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
    turns = nib.io_orientation(affine)
    near_ras = {key: nib.apply_orientation(array, turns) for key, array in arrays.items()}
    order = np.argsort(turns[:, 0])
    return SegmentedVolume(
        near_ras.get("image"), near_ras["pred"], near_ras.get("label"), tuple(float(spacing[axis]) for axis in order)
    )


def _array(key: str, tensor: Any) -> Volume:
    """The first channel of an image, or a label map."""
    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 4 or (key != "image" and len(tensor) != 1):
        found = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(
            f"`{key}` of a sample must be {'an image' if key == 'image' else 'a label map'} (1, i, j, k), got {found}. "
            'Decollate, and add {"_target_": "AsDiscreted", "keys": "pred", "argmax": true} to the postprocessing.'
        )
    plain = tensor.detach().as_subclass(torch.Tensor)[0]
    return (plain.float() if plain.is_floating_point() else plain).cpu().numpy()


def _affine(tensors: Mapping[str, Any], spacing_mm: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """Voxel to world, from the reference if there is one."""
    for key in ("label", "pred", "image"):
        if isinstance(tensors.get(key), MetaTensor):
            return np.asarray(tensors[key].affine.cpu().numpy(), dtype=np.float64)
    if spacing_mm is None:
        raise ValueError(
            "The volumes carry no affine that tells the spacing. Keep them MetaTensors, or give `spacing_mm`."
        )
    return np.eye(4)
