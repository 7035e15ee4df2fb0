"""Runs: what happens between the command line and the trainer."""

from bertswin_ext.runs.config_check import check_config, config_problems, current_config, known_ids
from bertswin_ext.runs.pack import pack_bundle
from bertswin_ext.runs.publish import publish_model
from bertswin_ext.runs.source import LabelledItems, open_datalist, open_volumes, scans_to_segment
from bertswin_ext.runs.start import start_run

__all__ = [
    "LabelledItems",
    "check_config",
    "config_problems",
    "current_config",
    "known_ids",
    "open_datalist",
    "open_volumes",
    "pack_bundle",
    "publish_model",
    "scans_to_segment",
    "start_run",
]
