"""Data: datalists, volumes, preparation, phantoms, and the training stream."""

from bertswin_ext.data.absent_classes import warn_of_absent_classes
from bertswin_ext.data.datalist import Datalist, are_prepared, load_datalist, split_sha256
from bertswin_ext.data.datalist_check import check_datalist
from bertswin_ext.data.phantoms.head_files import write_heads
from bertswin_ext.data.phantoms.jaw_map import DENTAL_SEGMENTATOR
from bertswin_ext.data.phantoms.phantom import Phantom, make_phantom
from bertswin_ext.data.phantoms.phantom_files import write_phantoms
from bertswin_ext.data.phantoms.semi_synthetic import SemiSynthetic, make_semi_synthetic, write_semi_synthetic
from bertswin_ext.data.preparation.condyles import find_condyles
from bertswin_ext.data.preparation.fov_estimate import estimate_field_of_view
from bertswin_ext.data.preparation.hdf5_export import export_hdf5
from bertswin_ext.data.preparation.hdf5_import import Hdf5Import, import_hdf5, import_store
from bertswin_ext.data.preparation.landmarks import JointCenter, Landmarks, load_landmarks
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.prepare import Prepared, prepare
from bertswin_ext.data.reading.volume_reader import VolumeReader
from bertswin_ext.data.reading.zipped_series import ZipLimits
from bertswin_ext.data.source_items import source_items
from bertswin_ext.data.stream import SeededDataset, ShareSampler, StreamSampler
from bertswin_ext.data.uncollated import Uncollated
from bertswin_ext.errors import VolumeError

__all__ = [
    "DENTAL_SEGMENTATOR",
    "Datalist",
    "Hdf5Import",
    "JointCenter",
    "Landmarks",
    "Phantom",
    "PreparationSettings",
    "Prepared",
    "SeededDataset",
    "SemiSynthetic",
    "ShareSampler",
    "StreamSampler",
    "Uncollated",
    "VolumeError",
    "VolumeReader",
    "ZipLimits",
    "are_prepared",
    "check_datalist",
    "estimate_field_of_view",
    "export_hdf5",
    "find_condyles",
    "import_hdf5",
    "import_store",
    "load_datalist",
    "load_landmarks",
    "make_phantom",
    "make_semi_synthetic",
    "prepare",
    "source_items",
    "split_sha256",
    "warn_of_absent_classes",
    "write_heads",
    "write_phantoms",
    "write_semi_synthetic",
]
