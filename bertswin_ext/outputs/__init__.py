"""What is written for a segmented scan: DICOM SEG, surfaces, pictures, measures, reports."""

from bertswin_ext.outputs.class_volumes import volumes_ml
from bertswin_ext.outputs.dicom_seg import Anatomy, SegAlgorithm, write_dicom_seg
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import JointSpace, minimal_joint_space
from bertswin_ext.outputs.scan_preview import write_preview
from bertswin_ext.outputs.scan_report import ScanReport, scan_geometry
from bertswin_ext.outputs.scan_summary import read_reports, write_summary
from bertswin_ext.outputs.surface_mesh import SurfaceMesh, class_surface, write_surface

__all__ = [
    "Anatomy",
    "JointReport",
    "JointSpace",
    "ScanReport",
    "SegAlgorithm",
    "SurfaceMesh",
    "class_surface",
    "minimal_joint_space",
    "read_reports",
    "scan_geometry",
    "volumes_ml",
    "write_dicom_seg",
    "write_preview",
    "write_summary",
    "write_surface",
]
