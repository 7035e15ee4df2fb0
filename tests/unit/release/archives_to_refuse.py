"""Archives, and weights in them, that must not be unpacked or loaded."""

import io
import os
import pickle
import stat
import zipfile

import torch


class Canary:
    """A pickle of this writes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def canary_pickle(path, kind):
    """Bytes of a file that writes ``path`` when ``pickle`` loads it."""
    if kind == "pickle":
        return pickle.dumps(Canary(path))
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(1)}, "extra": Canary(path)}, buffer)
    return buffer.getvalue()


def write_archive(path, members):
    """A zip of (name or ZipInfo, content) pairs."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def link(name, target):
    """A symbolic link as a member."""
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member, target
