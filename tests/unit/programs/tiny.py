"""A network that exports in a second, archives with other contents, and a pickle that leaves a mark when it is read."""

import io
import os

import torch
from torch import nn

from bertswin_ext.networks import AdaptationRecord
from bertswin_ext.programs.archive import archive_records, write_archive
from bertswin_ext.programs.passport import Passport

SIZE = (8, 10, 12)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.GELU(), nn.Conv3d(4, 3, 1)).eval()


def record(**arguments):
    return AdaptationRecord("Sequential", arguments, "RAS", (0.8, 0.8, 0.8), labels=("background", "mandible", "skull"))


def passport():
    return Passport(record(), 1, SIZE)


def images(batch_size, seed=0):
    return torch.randn(batch_size, 1, *SIZE, generator=torch.Generator().manual_seed(seed))


class Mark:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def pickled(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def contents(data):
    """Records of an archive."""
    return archive_records(data)


def archive(records):
    """An archive with these records."""
    return write_archive(records, version=6)
