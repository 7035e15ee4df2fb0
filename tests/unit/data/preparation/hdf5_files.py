"""HDF5 files in the authors' layout, for tests."""

import numpy as np
import pytest

SHAPE = (6, 7, 8)  # z, y, x
OFFSET = (2.0, 30.0, -40.5)
CENTER = (2.5, 3.25, 4.0)


def needed_h5py():
    """The package, or the test is skipped."""
    return pytest.importorskip("h5py", reason='h5py is not installed: pip install "bertswin-ext[hdf5]"')


def add_joint(file, name, seed=0, **changes):
    """A joint of noise; ``changes`` replace its attributes, None takes one away."""
    rng = np.random.default_rng(seed)
    group = file.create_group(name)
    group["roi_image"] = rng.integers(-1000, 3000, SHAPE, dtype=np.int16)
    group["segmentation_mask"] = rng.integers(0, 3, SHAPE, dtype=np.uint8)
    attributes = {"relative_tmj_center": CENTER, "roi_offset_from_center": OFFSET, "background_value": -1011}
    group.attrs.update({key: value for key, value in (attributes | changes).items() if value is not None})
    return group


def write_two_studies(path):
    """Two studies, three joints."""
    with needed_h5py().File(path, "w") as file:
        for n, name in enumerate(["a/left_joint", "a/right_joint", "b/right_joint"]):
            add_joint(file, name, seed=n)
        file["a"].attrs["patient_id"], file["b"].attrs["patient_id"] = "P1", np.bytes_("P2")
    return path


def replaced(group, name, value):
    """Put something else under a name."""
    del group[name]
    group[name] = value


def contents(path):
    """All datasets and attributes of a file by their paths."""
    h5py, found = needed_h5py(), {}

    def visit(name, entry):
        found.update({f"{name}@{key}": np.asarray(value) for key, value in entry.attrs.items()})
        if isinstance(entry, h5py.Dataset):
            found[name] = entry[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found
