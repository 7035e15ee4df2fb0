"""Tiny evaluators of segmentations: a network that repeats its input, and labels that differ from it."""

import numpy as np
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from torch import nn

NAMES = ["background", "mandible", "skull"]
AFFINE = np.diag([0.5, 0.4, 1.0, 1.0])
SHAPE = (12, 12, 12)


def label_map(shift=0, mandible=True):
    label = torch.zeros(1, *SHAPE)
    if mandible:
        label[:, 2 + shift : 6 + shift, 2:6, 2:6] = 1
    label[..., 9:] = 2
    return label


class Repeat(nn.Module):
    """Logits that have their largest value at the class that the image shows."""

    def forward(self, image):
        return 10 * torch.cat([(image.round() == value).float() for value in range(3)], dim=1)


def sample(shift=0, mandible=True):
    """What the network predicts is the image; the reference is moved."""
    pair = {"image": label_map(0, mandible), "label": label_map(shift)}
    return {key: MetaTensor(value, affine=torch.from_numpy(AFFINE)) for key, value in pair.items()}


def make_evaluator(samples, **options):
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(samples, batch_size=options.pop("batch_size", 2)),
        network=Repeat(),
        **options,
    )
