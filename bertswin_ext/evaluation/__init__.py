"""How good a segmentation or a reconstruction is: scores of every case, tables and pictures of them."""

from bertswin_ext.evaluation.case_gallery import write_gallery, write_overlay
from bertswin_ext.evaluation.case_planes import CasePlanes, cut_planes, largest_error, most_anatomy
from bertswin_ext.evaluation.fold_files import find_folds, read_folds
from bertswin_ext.evaluation.fold_summary import FoldSummary, summarize_folds, write_fold_summary
from bertswin_ext.evaluation.reconstruction_fidelity import BoneSurfaceError, ComposedSSIM, StructureCorrelation
from bertswin_ext.evaluation.score_summary import summarize_scores, worst_first, write_summary
from bertswin_ext.evaluation.score_table import CaseScores, read_scores, write_scores
from bertswin_ext.evaluation.segmentation_scores import ClassScores, mean_scores, segmentation_scores
from bertswin_ext.evaluation.surface_distances import surface_distances_mm

__all__ = [
    "BoneSurfaceError",
    "CasePlanes",
    "CaseScores",
    "ClassScores",
    "ComposedSSIM",
    "FoldSummary",
    "StructureCorrelation",
    "cut_planes",
    "find_folds",
    "largest_error",
    "mean_scores",
    "most_anatomy",
    "read_folds",
    "read_scores",
    "segmentation_scores",
    "summarize_folds",
    "summarize_scores",
    "surface_distances_mm",
    "worst_first",
    "write_fold_summary",
    "write_gallery",
    "write_overlay",
    "write_scores",
    "write_summary",
]
