"""Handlers: what happens around the iterations of an engine."""

from bertswin_ext.handlers.averaged_weights import AveragedWeightsHandler
from bertswin_ext.handlers.best_model import BestModelHandler, PatienceHandler
from bertswin_ext.handlers.case_table import CaseTableHandler
from bertswin_ext.handlers.conductor_stats import ConductorStatsHandler
from bertswin_ext.handlers.curves import CurvesHandler
from bertswin_ext.handlers.joint_features import JointFeaturesHandler
from bertswin_ext.handlers.joint_reconstructions import JointReconstructionsHandler
from bertswin_ext.handlers.optimization import LossTermsHandler, OptimizerStepHandler
from bertswin_ext.handlers.profile import ProfileHandler
from bertswin_ext.handlers.progress import ProgressHandler
from bertswin_ext.handlers.reconstruction_image import ReconstructionImageHandler
from bertswin_ext.handlers.resume import ResumeHandler
from bertswin_ext.handlers.run_report import RunReportHandler
from bertswin_ext.handlers.scan_output import ScanOutputHandler
from bertswin_ext.handlers.segmentation_image import SegmentationImageHandler
from bertswin_ext.handlers.segmentation_metric import SegmentationMetric
from bertswin_ext.handlers.segmentation_report import SegmentationReportHandler
from bertswin_ext.handlers.sharded_state import ShardedState
from bertswin_ext.handlers.sharded_validation import ShardedValidationHandler
from bertswin_ext.handlers.stem_report import StemReportHandler

__all__ = [
    "AveragedWeightsHandler",
    "BestModelHandler",
    "CaseTableHandler",
    "ConductorStatsHandler",
    "CurvesHandler",
    "JointFeaturesHandler",
    "JointReconstructionsHandler",
    "LossTermsHandler",
    "OptimizerStepHandler",
    "PatienceHandler",
    "ProfileHandler",
    "ProgressHandler",
    "ReconstructionImageHandler",
    "ResumeHandler",
    "RunReportHandler",
    "ScanOutputHandler",
    "SegmentationImageHandler",
    "SegmentationMetric",
    "SegmentationReportHandler",
    "ShardedState",
    "ShardedValidationHandler",
    "StemReportHandler",
]
