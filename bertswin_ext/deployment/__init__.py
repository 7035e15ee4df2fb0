"""A trained program on whole scans: find the joints, segment each, put the labels back."""

from bertswin_ext.deployment.joint_finder import FoundJoint, JointFinder, load_joint_finder
from bertswin_ext.deployment.joint_search import JointSearch
from bertswin_ext.deployment.joints_inferer import JointsInferer, SegmentedScan
from bertswin_ext.deployment.scan_joints import NoteJointsd, ScanJoint, joints_of
from bertswin_ext.deployment.scan_segmentation import ScanAttempt, ScanLabels, ScanSegmentation
from bertswin_ext.deployment.scan_source import Scans, open_scans

__all__ = [
    "FoundJoint",
    "JointFinder",
    "JointSearch",
    "JointsInferer",
    "NoteJointsd",
    "ScanAttempt",
    "ScanJoint",
    "ScanLabels",
    "ScanSegmentation",
    "Scans",
    "SegmentedScan",
    "joints_of",
    "load_joint_finder",
    "open_scans",
]
