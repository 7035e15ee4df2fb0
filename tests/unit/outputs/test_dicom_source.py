"""Headers of a series: what is taken from them, what is refused, and that no patient is quoted."""

import logging
import sys
import warnings

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", minversion="3")

from bertswin_ext.errors import VolumeError  # noqa: E402
from bertswin_ext.outputs.dicom_source import quiet_dicom, read_dicom_source  # noqa: E402
from tests.unit.outputs.clinic import PATIENT, axial, with_tags, write_clinic_series  # noqa: E402


@pytest.fixture
def series(tmp_path):
    return axial(tmp_path / "ct")


def refusal(series, **options):
    with pytest.raises(VolumeError) as caught:
        read_dicom_source(series, **options)
    assert not [value for value in PATIENT.values() if value in str(caught.value) and len(value) > 1]
    return str(caught.value)


def test_images_have_no_patient_and_the_patient_no_image(series):
    source = read_dicom_source(series)
    assert (len(source.images), source.sop_class, source.has_planes, source.is_known) == (
        11,
        "1.2.840.10008.5.1.4.1.1.2",
        True,
        True,
    )
    assert {name: str(source.about[name].value) for name in PATIENT} == PATIENT
    for image in source.images:
        assert not any(image.get(name) for name in PATIENT)
        assert "PixelData" not in image
    assert {element.keyword for element in source.about} == {*PATIENT, "SpecificCharacterSet"}


def test_axes_are_across_down_and_along(tmp_path):
    series = write_clinic_series(tmp_path / "ct", (0, 1, 0), (0, 0, -1), (2, 0, 0))
    axes = read_dicom_source(series).axes
    assert axes.T.tolist() == [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]


def test_only_the_first_bytes_are_needed(tmp_path, series):
    # a header is read up to the pixels, whatever comes then
    for path in series.iterdir():
        data = path.read_bytes()
        path.write_bytes(data[: data.find(b"\xe0\x7f\x10\x00OW") + 12])
    assert len(read_dicom_source(series).images) == 11


def test_missing_uids_are_counted(series):
    with_tags(series / "000.dcm", SOPInstanceUID="", FrameOfReferenceUID=None)
    with_tags(series / "001.dcm", SOPInstanceUID=None)
    text = refusal(series)
    assert f"faults in {series}:" in text
    assert "SOPInstanceUID is missing or empty in 2 of 11 files" in text
    assert "FrameOfReferenceUID is missing or empty in 1 of 11 files" in text
    assert text.endswith("let missing UIDs be made up (`replace_missing_uids`).")


def test_made_up_uids_are_valid_and_always_the_same(tmp_path):
    names = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    series = axial(tmp_path / "ct", **dict.fromkeys(names, ""))
    first, again = (read_dicom_source(series, replace_missing_uids=True) for _ in range(2))
    assert not first.is_known
    for name in names:
        values = [str(image[name].value) for image in first.images]
        assert values == [str(image[name].value) for image in again.images]
        assert all(pydicom.uid.UID(value).is_valid for value in values)
        assert len(set(values)) == (11 if name == "SOPInstanceUID" else 1)
    other = axial(tmp_path / "other", **dict.fromkeys(names, ""), AccessionNumber="another")
    found = read_dicom_source(other, replace_missing_uids=True).images[0]
    assert found.StudyInstanceUID != first.images[0].StudyInstanceUID


@pytest.mark.parametrize("name", ["PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"])
def test_two_patients_or_studies_are_refused(series, name):
    with_tags(series / "004.dcm", **{name: "1.9.9"})
    text = refusal(series)
    assert f"{name} is not the same in all files; they are not one series of one patient" in text
    assert "replace_missing_uids" not in text
    assert refusal(series, replace_missing_uids=True) == text


def test_images_that_share_a_uid_are_refused(series):
    with_tags(series / "004.dcm", SOPInstanceUID="1.2.3.4.1")
    assert "SOPInstanceUID: 1 files have that of another file" in refusal(series)


@pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"])
def test_a_slice_without_a_place_is_refused(series, name):
    with_tags(series / "004.dcm", **{name: None})
    assert f"{name} is missing in 1 of 11 files" in refusal(series)


def test_places_without_images_are_refused(tmp_path, series):
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "gone"):
        assert "must be a DICOM image or the folder" in refusal(place)
    (series / "000.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\0\0\0UL\4\0\xff")
    assert "000.dcm" in refusal(series) or "missing" in refusal(series)


def test_within_quiet_nothing_is_logged_or_warned(caplog, recwarn):
    with caplog.at_level(logging.DEBUG), quiet_dicom():
        logging.getLogger("highdicom.base").error("Mustermann")
        warnings.warn("Mustermann", stacklevel=1)
        data = pydicom.Dataset()
        data.PatientBirthDate = "1970-01-02"
    logging.getLogger("highdicom.base").error("heard again")
    assert caplog.messages == ["heard again"]
    assert len(recwarn) == 0
    with pytest.warns(UserWarning, match="Invalid value for VR DA"):
        pydicom.Dataset().PatientBirthDate = "1970-01-02"


def test_a_slice_thickness_is_not_needed(tmp_path):
    source = read_dicom_source(axial(tmp_path / "ct", SliceThickness=""))
    assert np.ndim(source.images[0].ImagePositionPatient) == 1


def test_the_missing_package_is_named(series, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom.config", None)
    with pytest.raises(ImportError, match=r'DICOM SEG needs pydicom.config .*: pip install "bertswin-ext\[dicom\]"'):
        read_dicom_source(series)
