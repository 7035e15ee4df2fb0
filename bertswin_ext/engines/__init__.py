"""Engines: how batches go through network and loss."""

from bertswin_ext.engines.conducted_trainer import ConductedTrainer
from bertswin_ext.engines.prepare_batch import PreparePretrainingBatch, PrepareSegmentationBatch

__all__ = ["ConductedTrainer", "PreparePretrainingBatch", "PrepareSegmentationBatch"]
