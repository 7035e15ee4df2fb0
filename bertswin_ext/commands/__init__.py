"""The commands of ``python -m bertswin_ext``: what a user types, checked, and handed to the package."""

from bertswin_ext.commands.check import check
from bertswin_ext.commands.download import download
from bertswin_ext.commands.estimate import estimate
from bertswin_ext.commands.hdf5 import export_hdf5, import_hdf5
from bertswin_ext.commands.import_weights import import_weights
from bertswin_ext.commands.pack import pack
from bertswin_ext.commands.phantom import phantom
from bertswin_ext.commands.prepare import prepare
from bertswin_ext.commands.release import release
from bertswin_ext.commands.summarize_folds import summarize_folds
from bertswin_ext.commands.synthesize import synthesize

__all__ = [
    "check",
    "download",
    "estimate",
    "export_hdf5",
    "import_hdf5",
    "import_weights",
    "pack",
    "phantom",
    "prepare",
    "release",
    "summarize_folds",
    "synthesize",
]
