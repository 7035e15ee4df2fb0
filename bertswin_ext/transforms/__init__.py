"""Transforms: checks, the token mask, and the chains that bundles share."""

from bertswin_ext.transforms.checks import CheckSized, CheckVolumed
from bertswin_ext.transforms.masking import RandTokenNoised
from bertswin_ext.transforms.pipelines import pretraining_transforms, volume_preprocessing

__all__ = ["CheckSized", "CheckVolumed", "RandTokenNoised", "pretraining_transforms", "volume_preprocessing"]
