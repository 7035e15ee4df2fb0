"""Cases with scores that are easy to average."""

import math

from bertswin_ext.evaluation.score_table import CaseScores
from bertswin_ext.evaluation.segmentation_scores import ClassScores


def scores(name, dice, note=""):
    """One class; None is not counted."""
    if dice is None:
        return ClassScores(name, math.nan, math.nan, math.nan, 0.0, 0.0, "absent")
    return ClassScores(name, dice, 4 * (1 - dice), 1 - dice, 2.0, 2.5, note)


def case(patient, mandible, skull, joint="left", image=None):
    """One case with two classes."""
    return CaseScores(patient, image or f"{patient}.nii", joint, (scores("mandible", mandible), scores("skull", skull)))
