"""Optimization: gradients of several losses made one, and the step that follows. Needs torch only."""

from bertswin_ext.optimizers.arbiter import Arbiter
from bertswin_ext.optimizers.conductor import GradientConductor
from bertswin_ext.optimizers.gradient_bank import GradientBank
from bertswin_ext.optimizers.lion_lars import LionLARS
from bertswin_ext.optimizers.parameter_groups import parameter_groups
from bertswin_ext.optimizers.resolvers import Thresholds, smooth, stronger, zoned
from bertswin_ext.optimizers.sharded_conductor import ShardedConductor
from bertswin_ext.optimizers.sharded_lion_lars import ShardedLionLARS
from bertswin_ext.optimizers.statistics import Conflict, StepStatistics

__all__ = [
    "Arbiter",
    "Conflict",
    "GradientBank",
    "GradientConductor",
    "LionLARS",
    "ShardedConductor",
    "ShardedLionLARS",
    "StepStatistics",
    "Thresholds",
    "parameter_groups",
    "smooth",
    "stronger",
    "zoned",
]
