"""Runs: what happens between the command line and the trainer."""

from bertswin_ext.runs.config_check import check_config, config_problems, current_config, known_ids
from bertswin_ext.runs.source import open_datalist
from bertswin_ext.runs.start import start_run

__all__ = ["check_config", "config_problems", "current_config", "known_ids", "open_datalist", "start_run"]
