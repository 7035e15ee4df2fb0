"""Transforms: crops round a joint, the field of view, disturbances, checks, and the chains that bundles share."""

from bertswin_ext.transforms.alias import Aliasd
from bertswin_ext.transforms.check_label import CheckLabeld
from bertswin_ext.transforms.checks import CheckSized, CheckVolumed
from bertswin_ext.transforms.class_center import LabelVoxelsd, RandClassCenterd
from bertswin_ext.transforms.clean_labels import KeepLargestParts, KeepLargestPartsd
from bertswin_ext.transforms.crop_plan import CropPlan, plan_crop
from bertswin_ext.transforms.ct_noise import RandCTNoise, RandCTNoised
from bertswin_ext.transforms.fov import TokenValidity, TokenValidityd
from bertswin_ext.transforms.hu_warp import HU_ANCHORS, RandHUWarp, RandHUWarpd
from bertswin_ext.transforms.joint_crop import RandJointCrop, RandJointCropd
from bertswin_ext.transforms.joint_region import BlankRegiond, JointRegiond
from bertswin_ext.transforms.labelled import Labelledd
from bertswin_ext.transforms.masking import RandTokenNoised
from bertswin_ext.transforms.mirror_left import MirrorLeftd
from bertswin_ext.transforms.most_likely import MostLikelyClass, MostLikelyClassd
from bertswin_ext.transforms.pipelines import device_transforms, pretraining_transforms, volume_preprocessing
from bertswin_ext.transforms.resample_crop import ResampleCrop, ResampleCropd
from bertswin_ext.transforms.save_segmentation import SaveSegmentationd
from bertswin_ext.transforms.seed import RandSeedd
from bertswin_ext.transforms.segmentation_pipelines import (
    segmentation_postprocessing,
    segmentation_preprocessing,
    segmentation_training,
)
from bertswin_ext.transforms.standardize import StandardizeHU, StandardizeHUd
from bertswin_ext.transforms.stored import OpenStoredd

__all__ = [
    "HU_ANCHORS",
    "Aliasd",
    "BlankRegiond",
    "CheckLabeld",
    "CheckSized",
    "CheckVolumed",
    "CropPlan",
    "JointRegiond",
    "KeepLargestParts",
    "KeepLargestPartsd",
    "LabelVoxelsd",
    "Labelledd",
    "MirrorLeftd",
    "MostLikelyClass",
    "MostLikelyClassd",
    "OpenStoredd",
    "RandCTNoise",
    "RandCTNoised",
    "RandClassCenterd",
    "RandHUWarp",
    "RandHUWarpd",
    "RandJointCrop",
    "RandJointCropd",
    "RandSeedd",
    "RandTokenNoised",
    "ResampleCrop",
    "ResampleCropd",
    "SaveSegmentationd",
    "StandardizeHU",
    "StandardizeHUd",
    "TokenValidity",
    "TokenValidityd",
    "device_transforms",
    "plan_crop",
    "pretraining_transforms",
    "segmentation_postprocessing",
    "segmentation_preprocessing",
    "segmentation_training",
    "volume_preprocessing",
]
