"""Read a volume correctly or say why not: NIfTI, NRRD, MetaImage and DICOM."""

from __future__ import annotations

import gzip
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data.image_reader import ImageReader, ITKReader, NibabelReader
from monai.utils import MetaKeys, ensure_tuple
from nibabel.openers import ImageOpener

from bertswin_ext.data.reading.dicom_series import is_dicom_file, read_header, read_multi_frame, read_series
from bertswin_ext.errors import VolumeError, times

logger = logging.getLogger(__name__)
# where pydicom is installed, each LoadImage warns that a reader without nvImageCodec is slow, which is never used here
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader: nvImageCodec decoder plugin")

Array = npt.NDArray[Any]
Meta = dict[str, Any]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)

_SPACING_TOLERANCE = 0.01
_OTHER_UNITS = {1: ("meter", "1000"), 3: ("micron", "0.001")}  # codes of NIfTI; 2 is mm, 0 unknown


class VolumeReader(ImageReader):  # type: ignore[misc]
    """Image reader for ``LoadImaged`` that never returns a wrong geometry silently.

    NIfTI goes through MONAI's ``NibabelReader``; NRRD, MetaImage and DICOM go through MONAI's ``ITKReader``.
    The affine is in mm and RAS+, as MONAI's readers give it. A DICOM series whose slices are tilted against
    their stacking direction or unevenly spaced is resampled, with a warning and ``meta["resampling"]``.

    All the work is done in ``get_data``: ``LoadImage`` swallows what ``read`` raises and then tries its other
    readers, which would load a refused file after all.

    Shape:
        The array is ``(i, j, k)`` as stored; ``LoadImaged`` and ``EnsureChannelFirstd`` make it ``(1, i, j, k)``.

    Raises:
        VolumeError: from ``get_data``, naming the file, what was found and what to do.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys=["image"], reader=VolumeReader())
    """

    def verify_suffix(self, filename: Sequence[str] | str) -> bool:
        """Accept everything: files that cannot be read get an error of their own."""
        return True

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> tuple[str, ...]:
        """Note the path; ``get_data`` opens it."""
        return tuple(str(name) for name in ensure_tuple(data))

    def get_data(self, img: Sequence[str]) -> tuple[Array, Meta]:
        """Read a volume.

        Args:
            img: what ``read`` returned: one path.

        Returns:
            The array ``(i, j, k)`` and MONAI's meta data, with ``affine`` in mm and RAS+.

        Raises:
            VolumeError: if the volume cannot be read, is not one 3D scalar volume, or has no valid geometry.
        """
        if len(img) != 1:
            raise VolumeError(f"an item must name one volume, got {len(img)} paths: {', '.join(img)}.")
        path = Path(img[0])
        array, meta = _load(path)
        array, meta = _drop_empty_axes(array, meta)
        _check_array(path, array)
        _check_affine(path, np.asarray(meta[MetaKeys.AFFINE]))
        return array, meta


def volume_suffix(path: Path) -> str:
    """Return the suffix of a volume file in lower case, or an empty string if it is not one we read."""
    name = path.name.lower()
    # the longest first, so that .nii.gz is not taken apart
    return next((suffix for suffix in sorted(VOLUME_SUFFIXES, key=len)[::-1] if name.endswith(suffix)), "")


def _load(path: Path) -> tuple[Array, Meta]:
    """Hand a path to the reader of its kind."""
    suffix = volume_suffix(path)
    if path.is_dir():
        return _load_dicom_folder(path)
    if not path.exists():
        raise VolumeError(f"{path}: the file does not exist. Correct the path in the datalist.")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty. Copy it again.")
    if suffix in NIFTI_SUFFIXES:
        return _load_nifti(path)
    if suffix in ITK_SUFFIXES:
        return _load_itk(path)
    if is_dicom_file(path):
        return _load_dicom_file(path)
    raise VolumeError(
        f"{path}: unknown kind of file. Convert it to one of {', '.join(VOLUME_SUFFIXES)}, "
        "or name a DICOM file or the folder of a DICOM series."
    )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a VolumeError."""
    try:
        yield
    except (VolumeError, MemoryError):
        raise
    except Exception as error:  # nibabel, zlib and ITK share no base class
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else type(error).__name__
        raise VolumeError(
            f"{path}: the file cannot be read, it is damaged, cut off or not what its suffix says ({reason}). "
            "Copy or convert it again."
        ) from error


def _load_nifti(path: Path) -> tuple[Array, Meta]:
    """Read NIfTI with nibabel's own choice of affine (sform, then qform)."""
    with _damage_named(path):
        image: Any = nib.load(path)
        _check_nifti_header(path, image)
        reader = NibabelReader()
        # Not reader.read: where sform and pixdim differ by a rounding error it replaces the sform by the qform,
        # even one that is marked as unset, and so loses the orientation.
        reader.filenames = (str(path),)
        if volume_suffix(path) == ".nii.gz":
            # nibabel stops reading before the checksum at the end
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        array, meta = reader.get_data(image)
        return array, meta


def _check_nifti_header(path: Path, image: Any) -> None:
    """Check the geometry as it stands in the file; nibabel quietly turns a spacing of 0 into 1."""
    with ImageOpener(str(path)) as file:
        header = type(image).header_class.from_fileobj(file, check=False)
    axes = min(int(header["dim"][0]), 3)
    pixdim = np.abs(np.asarray(header["pixdim"], dtype=float)[1 : axes + 1])
    sform, qform = header.get_sform(coded=True), image.header.get_qform(coded=True)
    if not (np.isfinite(pixdim) & (pixdim > 0)).all():
        raise VolumeError(
            f"{path}: the voxel spacing in the header (pixdim) must be above 0 mm, got {times(pixdim)}. "
            "Write the true spacing into the header, or convert the scan again."
        )
    # get_xyzt_units fails on codes that mean nothing
    code = int(header["xyzt_units"]) % 8
    if code in _OTHER_UNITS:
        unit, factor = _OTHER_UNITS[code]
        raise VolumeError(
            f"{path}: the header says that lengths are in {unit}, and they would be read as mm. Write pixdim, sform "
            f"and qform in mm ({factor} times what is there) and set xyzt_units to mm, or set the unit alone if the "
            "numbers are in mm already."
        )
    if sform[0] is None:
        if qform[0] is None:
            logger.warning(
                "%s: the header has no orientation (sform and qform are unset): left and right are a guess.", path
            )
        return
    _check_affine(path, sform[0])
    spacing = np.linalg.norm(sform[0][:3, :axes], axis=0)
    if not np.allclose(spacing, pixdim, rtol=_SPACING_TOLERANCE):
        raise VolumeError(
            f"{path}: the header contradicts itself: the spacing is {times(spacing)} mm in the sform and "
            f"{times(pixdim)} mm in pixdim. Write the true one into both, or convert the scan again."
        )
    if qform[0] is not None and nib.aff2axcodes(qform[0]) != nib.aff2axcodes(sform[0]):
        names = ["".join(nib.aff2axcodes(affine)) for affine in (sform[0], qform[0])]
        logger.warning("%s: the sform says %s and the qform says %s: the sform is used.", path, *names)


def _load_itk(path: Path) -> tuple[Array, Meta]:
    """Read NRRD or MetaImage with MONAI's ITK reader, after a look at the header."""
    if path.suffix != path.suffix.lower():
        raise VolumeError(f"{path}: ITK needs the suffix in lower case. Rename it to {path.suffix.lower()}.")
    with _damage_named(path):
        io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if io is None:
            raise ValueError("no ITK reader knows its content")
        io.SetFileName(str(path))
        io.ReadImageInformation()
        if io.GetNumberOfComponents() != 1:
            raise VolumeError(_not_scalar(path, f"{io.GetNumberOfComponents()} numbers per voxel"))
        size = [int(io.GetDimensions(axis)) for axis in range(io.GetNumberOfDimensions())]
        if 0 in size:
            raise VolumeError(_without_voxels(path, size))
        if path.suffix in (".nrrd", ".nhdr"):
            _check_nrrd_spacing(path)
        reader = ITKReader()
        array, meta = reader.get_data(reader.read(str(path)))
        return array, meta


def _check_nrrd_spacing(path: Path) -> None:
    """Raise if a NRRD header gives a spacing as NaN, which ITK quietly turns into 1."""
    with path.open("rb") as file:
        lines = (line.decode("latin-1").strip().lower() for line in file)
        for line in lines:
            if not line:
                return
            field, _, text = line.partition(":")
            spacings = text.split()
            # an axis that is not in space may be without a spacing, but three axes must have one
            if field == "spacings" and len(spacings) - spacings.count("nan") < min(3, len(spacings)):
                raise VolumeError(
                    f"{path}: the voxel spacing must be above 0 mm, got {text.strip()}. "
                    "Write the true spacing into the header, or convert the scan again."
                )


def _load_dicom_folder(path: Path) -> tuple[Array, Meta]:
    """Read the DICOM series of a folder."""
    with _damage_named(path):
        image, note = read_series(path)
        array, meta = ITKReader().get_data(image)
        return array, {**meta, "resampling": note} if note else meta


def _load_dicom_file(path: Path) -> tuple[Array, Meta]:
    """Read a DICOM file that holds a whole volume."""
    with _damage_named(path):
        array, meta = ITKReader().get_data(read_multi_frame(read_header(path)))
        return array, meta


def _drop_empty_axes(array: Array, meta: Meta) -> tuple[Array, Meta]:
    """Drop axes of size 1 behind the third one."""
    extra = tuple(axis for axis in range(3, array.ndim) if array.shape[axis] == 1)
    if not extra:
        return array, meta
    array = array.squeeze(extra)
    return array, {**meta, MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if array.ndim == 3 else -1}


def _check_array(path: Path, array: Array) -> None:
    """Raise unless the array is one volume of real numbers."""
    size = times(array.shape)
    if array.dtype.kind not in "biuf":
        kind = "complex numbers" if array.dtype.kind == "c" else "several numbers per voxel"
        raise VolumeError(_not_scalar(path, f"{kind} ({array.dtype})"))
    if 0 in array.shape:
        raise VolumeError(_without_voxels(path, array.shape))
    if array.ndim > 3:
        raise VolumeError(
            f"{path}: holds {size} voxels: a time series or several channels. Write every 3D volume to a file of "
            "its own."
        )
    if array.ndim < 3 or 1 in array.shape:
        raise VolumeError(
            f"{path}: is a 2D image of {size} voxels. A volume needs at least 2 slices: name the whole series, or "
            "remove it from the datalist."
        )


def _check_affine(path: Path, affine: npt.NDArray[Any]) -> None:
    """Raise unless the affine gives every voxel a place of its own."""
    axes = np.asarray(affine, dtype=float)[:-1, :-1]
    if np.isfinite(affine).all():
        spacing = np.linalg.norm(axes, axis=0)
        # the volume of a voxel relative to that of a box with the same edges: 1 without shear
        if (spacing > 0).all() and abs(np.linalg.det(axes / spacing)) > 1e-3:
            return
    raise VolumeError(
        f"{path}: the affine does not describe a grid in space (spacing 0, NaN, or parallel axes): "
        f"{np.asarray(affine).tolist()}. Write the true affine into the header, or convert the scan again."
    )


def _not_scalar(path: Path, found: str) -> str:
    """Say that a volume does not have one real number per voxel."""
    return f"{path}: holds {found}. A volume has one real number per voxel: convert it to int16 or float32."


def _without_voxels(path: Path, size: Sequence[int]) -> str:
    """Say that a volume is empty."""
    return f"{path}: has no voxels ({times(size)}). Convert the scan again."
