"""Transforms: crops round a joint, the field of view, disturbances, checks, and the chains that bundles share."""

from bertswin_ext.transforms.alias import Aliasd
from bertswin_ext.transforms.checks import CheckSized, CheckVolumed
from bertswin_ext.transforms.crop_plan import CropPlan, plan_crop
from bertswin_ext.transforms.ct_noise import RandCTNoise, RandCTNoised
from bertswin_ext.transforms.fov import TokenValidity, TokenValidityd
from bertswin_ext.transforms.hu_warp import HU_ANCHORS, RandHUWarp, RandHUWarpd
from bertswin_ext.transforms.joint_crop import RandJointCrop, RandJointCropd
from bertswin_ext.transforms.labelled import Labelledd
from bertswin_ext.transforms.masking import RandTokenNoised
from bertswin_ext.transforms.pipelines import device_transforms, pretraining_transforms, volume_preprocessing
from bertswin_ext.transforms.resample_crop import ResampleCrop, ResampleCropd
from bertswin_ext.transforms.seed import RandSeedd
from bertswin_ext.transforms.standardize import StandardizeHU, StandardizeHUd
from bertswin_ext.transforms.stored import OpenStoredd

__all__ = [
    "HU_ANCHORS",
    "Aliasd",
    "CheckSized",
    "CheckVolumed",
    "CropPlan",
    "Labelledd",
    "OpenStoredd",
    "RandCTNoise",
    "RandCTNoised",
    "RandHUWarp",
    "RandHUWarpd",
    "RandJointCrop",
    "RandJointCropd",
    "RandSeedd",
    "RandTokenNoised",
    "ResampleCrop",
    "ResampleCropd",
    "StandardizeHU",
    "StandardizeHUd",
    "TokenValidity",
    "TokenValidityd",
    "device_transforms",
    "plan_crop",
    "pretraining_transforms",
    "volume_preprocessing",
]
