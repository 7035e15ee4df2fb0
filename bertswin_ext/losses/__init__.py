"""Losses on masked tokens, and of a stem that is tuned."""

from bertswin_ext.losses.agreement import AgreementLoss
from bertswin_ext.losses.joint_place import JointPlaceLoss
from bertswin_ext.losses.masked import MaskedL2Loss, masked_l2
from bertswin_ext.losses.reconstruction import ReconstructionLoss, one_sample
from bertswin_ext.losses.structure import SubpatchStructureLoss, structure_errors, structure_terms
from bertswin_ext.losses.tissue import TissueWeightedLoss, bone_surface_shell

__all__ = [
    "AgreementLoss",
    "JointPlaceLoss",
    "MaskedL2Loss",
    "ReconstructionLoss",
    "SubpatchStructureLoss",
    "TissueWeightedLoss",
    "bone_surface_shell",
    "masked_l2",
    "one_sample",
    "structure_errors",
    "structure_terms",
]
