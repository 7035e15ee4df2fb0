"""Engines: how batches go through network and loss."""

from bertswin_ext.engines.prepare_batch import PreparePretrainingBatch

__all__ = ["PreparePretrainingBatch"]
