"""Volumes whose voxels hold their own world position: what is read out of a crop says where it was taken."""

import numpy as np
import torch
from monai.data import MetaTensor

from bertswin_ext.geometry import moved


def turn(axis, degrees):
    """Rotation matrix about one axis, right-handed."""
    a, b = [n for n in range(3) if n != axis]
    if axis == 1:
        a, b = b, a
    matrix, angle = np.eye(3), np.deg2rad(degrees)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def affine_of(spacing=(1.0, 1.0, 1.0), oblique=(0.0, 0.0, 0.0), signs=(1, 1, 1), origin=(-7.0, 3.0, 11.0)):
    """Voxels of a spacing along oblique axes, some of them reversed."""
    affine = np.eye(4)
    rotation = turn(2, oblique[2]) @ turn(1, oblique[1]) @ turn(0, oblique[0])
    affine[:3, :3] = rotation @ np.diag(np.array(spacing) * signs)
    affine[:3, 3] = origin
    return affine


WORLDS = {
    "plain": affine_of((0.5, 0.5, 0.5)),
    "anisotropic": affine_of((0.4, 0.6, 1.1)),
    "oblique": affine_of((0.5, 0.5, 0.5), oblique=(8, -14, 21)),
    "oblique and anisotropic": affine_of((0.4, 0.7, 0.9), oblique=(-11, 17, 6)),
    "mirrored": affine_of((0.4, 0.5, 0.6), oblique=(5, 4, -9), signs=(-1, 1, -1)),
}


def indices(shape):
    """Index of every voxel, (i, j, k, 3)."""
    return np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)


def positions(shape, affine):
    """World position of every voxel, (i, j, k, 3)."""
    return moved(affine, indices(shape))


def world_volume(shape, affine):
    """Three channels: world x, y and z in mm, which linear interpolation reproduces."""
    values = torch.from_numpy(positions(shape, affine)).movedim(-1, 0).float()
    return MetaTensor(values, affine=torch.from_numpy(affine), meta={"filename_or_obj": "/data/a.nii"})
