"""Data: datalists, volumes, phantoms, and the training stream."""

from bertswin_ext.data.datalist import Datalist, load_datalist
from bertswin_ext.data.datalist_check import check_datalist
from bertswin_ext.data.phantom import Phantom, make_phantom
from bertswin_ext.data.phantom_files import write_phantoms
from bertswin_ext.data.stream import SeededDataset, ShareSampler, StreamSampler
from bertswin_ext.data.uncollated import Uncollated
from bertswin_ext.data.volume_reader import VolumeReader
from bertswin_ext.errors import VolumeError

__all__ = [
    "Datalist",
    "Phantom",
    "SeededDataset",
    "ShareSampler",
    "StreamSampler",
    "Uncollated",
    "VolumeError",
    "VolumeReader",
    "check_datalist",
    "load_datalist",
    "make_phantom",
    "write_phantoms",
]
