"""DICOM series as a clinic has them: a shape in space, with a patient, a study and a frame of reference."""

from itertools import product

import nibabel as nib
import numpy as np
import pydicom

from bertswin_ext.data.reading.volume_reader import VolumeReader
from tests.unit.data.reading.dicom_files import write_series

PATIENT = {
    "PatientName": "Mustermann^Jürgen",
    "PatientID": "ID-4711",
    "PatientBirthDate": "19700102",
    "PatientSex": "M",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "StudyID": "S9",
    "AccessionNumber": "A-55",
    "ReferringPhysicianName": "Doe^Jane",
    "StudyDescription": "CBCT Kiefer",
}
FRAME_OF_REFERENCE = "1.2.3.77"
CLASSES = ["background", "mandible", "skull"]
SIGNS = list(product((1, -1), repeat=3))


def classes(ras):
    """A class at world positions ``(..., 3)``: two shapes near the origin, neither like its mirror image."""
    x, y, z = np.moveaxis(np.asarray(ras), -1, 0)
    mandible = (x > -4) & (x < 2) & (y > -3) & (y < 5 - x) & (z > -5) & (z < 1 + 0.5 * x)
    skull = (x > 1) & (y < 3) & (z > 0) & (x + 2 * y + 3 * z < 14) & (y > -6)
    return np.where(mandible, 1, np.where(skull, 2, 0)).astype(np.uint8)


def hu(ras):
    return classes(ras) * 500.0 - 1000.0


def turned(angles_deg=(0.0, 0.0, 0.0)):
    """A rotation about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_deg)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def write_clinic_series(folder, along, down, step, *, spacing=(1.0, 1.5), size=(16, 13), count=11, **tags):
    """Write a series around the origin.

    Args:
        folder: of the files.
        along: direction of a row, LPS.
        down: direction of a column, LPS.
        step: from a slice to the one in the next file, LPS in mm.
        spacing: along a row and along a column.
        size: voxels along a row and along a column.
        count: slices.
        tags: more of them; None takes one out.
    """
    along, down, step = (np.asarray(vector, dtype=float) for vector in (along, down, step))
    middle = along * spacing[0] * (size[0] - 1) / 2 + down * spacing[1] * (size[1] - 1) / 2
    origins = (
        np.outer(np.arange(count) - (count - 1) / 2, step) - middle + [0.3171, -0.2237, 0.1193]
    )  # no voxel on an edge of a shape
    write_series(folder, origins, hu, size=size, orientation=(*along, *down), spacing=spacing)
    for path in folder.iterdir():
        with_tags(
            path, **{"SpecificCharacterSet": "ISO_IR 192", "FrameOfReferenceUID": FRAME_OF_REFERENCE, **PATIENT, **tags}
        )
    return folder


def with_tags(path, **tags):
    """Change tags of a file; None takes one out."""
    data = pydicom.dcmread(path)
    with pydicom.config.disable_value_validation():
        for name, value in tags.items():
            if value is None:
                data.pop(name, None)
            else:
                setattr(data, name, value)
        data.save_as(path)
    return path


def axial(folder, **options):
    """An even axial series."""
    return write_clinic_series(folder, (1, 0, 0), (0, 1, 0), (0, 0, 2.0), **options)


def segmented(folder):
    """A label map on the grid that the reader makes of a series, and its affine."""
    array, meta = VolumeReader().get_data((str(folder),))
    affine = np.asarray(meta["affine"], dtype=float)
    return classes(world_of(array.shape, affine)), affine


def world_of(shape, affine):
    """World position of every voxel, RAS."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def save_nifti(path, label, affine):
    image = nib.Nifti1Image(label, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def voxels_of(path):
    """World positions (RAS) and classes of all voxels that a DICOM SEG stores, frame by frame, with pydicom alone."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    along, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    step_down, step_along = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    row, column = np.meshgrid(np.arange(data.Rows), np.arange(data.Columns), indexing="ij")
    offsets = row[..., None] * step_down * down + column[..., None] * step_along * along
    found = []
    for group, frame in zip(data.PerFrameFunctionalGroupsSequence, np.atleast_3d(frames_of(data)), strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        found.append((((corner + offsets) * [-1, -1, 1])[frame == 1], number))
    return found


def frames_of(data):
    """Frames of a SEG, unpacked by hand: one bit for each voxel, the lowest first."""
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    size = data.NumberOfFrames * data.Rows * data.Columns
    return bits[:size].reshape(data.NumberOfFrames, data.Rows, data.Columns)


def label_from(path, shape, affine):
    """The label map of a DICOM SEG on a grid, and how far its voxels lie from those of the grid, in voxels."""
    label, farthest = np.zeros(shape, np.uint8), 0.0
    inverse = np.linalg.inv(affine)
    for positions, number in voxels_of(path):
        index = positions @ inverse[:3, :3].T + inverse[:3, 3]
        nearest = np.rint(index).astype(int)
        farthest = max(farthest, float(np.abs(index - nearest).max(initial=0)))
        label[tuple(nearest.T)] = number
    return label, farthest
