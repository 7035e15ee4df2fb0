"""DICOM SEG: read back, it is the label map, voxel for voxel in space; and it names the right patient and slices."""

import logging
import os
import sys
import traceback
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", minversion="3")
highdicom = pytest.importorskip("highdicom")

from bertswin_ext.data.reading.dicom_series import is_segmentation_file  # noqa: E402
from bertswin_ext.data.reading.volume_reader import VolumeReader  # noqa: E402
from bertswin_ext.data.reading.volume_search import find_volumes  # noqa: E402
from bertswin_ext.errors import VolumeError  # noqa: E402
from bertswin_ext.outputs.dicom_seg import Anatomy, SegAlgorithm, write_dicom_seg  # noqa: E402
from tests.unit.data.reading.dicom_files import write_slice  # noqa: E402
from tests.unit.outputs.clinic import (  # noqa: E402
    CLASSES,
    FRAME_OF_REFERENCE,
    PATIENT,
    SIGNS,
    axial,
    classes,
    label_from,
    save_nifti,
    segmented,
    turned,
    with_tags,
    world_of,
    write_clinic_series,
)

DEFAULT = Path(__file__).resolve().parents[4] / "shared" / "data" / "real"
REAL = Path(os.environ.get("BERTSWIN_REAL_DATA", DEFAULT))

# directions of rows, columns and slices before their signs: axial, coronal, sagittal, and the head askew
PLANES = {
    "axial": np.eye(3),
    "coronal": np.eye(3)[[0, 2, 1]],
    "sagittal": np.eye(3)[[1, 2, 0]],
    "oblique": turned((25.0, -14.0, 9.0)).T,
    "double oblique": turned((60.0, 33.0, -50.0)).T,
}


@pytest.fixture
def series(tmp_path):
    return axial(tmp_path / "ct")


def written(series, path, label=None, affine=None, **options):
    """The SEG of a series, and its notes."""
    if label is None:
        label, affine = segmented(series)
    notes = write_dicom_seg(label, affine, series, path, CLASSES, **options)
    return pydicom.dcmread(path), notes


def as_ras(label, affine):
    """The same voxels with axes closest to RAS."""
    image = nib.as_closest_canonical(nib.Nifti1Image(label, affine))
    return np.asarray(image.dataobj), image.affine


# --- space ---


@pytest.mark.parametrize(
    ("plane", "signs"),
    [
        *[("axial", signs) for signs in SIGNS],
        *[("oblique", signs) for signs in SIGNS],
        ("coronal", (1, -1, 1)),
        ("sagittal", (-1, 1, 1)),
        ("double oblique", (1, 1, -1)),
    ],
)
def test_seg_and_nifti_agree_voxel_for_voxel(tmp_path, plane, signs):
    along, down, across = PLANES[plane] * np.array(signs)[:, None]
    series = write_clinic_series(tmp_path / "ct", along, down, across * 2.2)
    label, affine = segmented(series)
    nifti = nib.load(save_nifti(tmp_path / "label.nii.gz", label, affine))
    stored = np.asarray(nifti.dataobj)
    # the phantom is in the label, and no flip of it is
    assert (np.bincount(stored.ravel(), minlength=3) > 60).all()
    assert not any(np.array_equal(stored, np.flip(stored, axis)) for axis in range(3))
    assert write_dicom_seg(label, affine, series, tmp_path / "label.dcm", CLASSES) == []
    back, farthest = label_from(tmp_path / "label.dcm", stored.shape, nifti.affine)
    assert farthest < 1e-3
    assert np.array_equal(back, stored)
    _check_volume(tmp_path / "label.dcm", label, affine)


def _check_volume(path, label, affine):
    """The volume that highdicom makes of a SEG has every class where the label map has it."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    ras = np.diag([-1, -1, 1, 1]) @ volume.affine
    assert np.linalg.norm(ras[:3, :3], axis=0) == pytest.approx([2.2, 1.5, 1.0])
    index = world_of(volume.array.shape, np.linalg.inv(affine) @ ras)
    nearest = np.rint(index).astype(int)
    assert np.abs(index - nearest).max() < 1e-3
    assert np.array_equal(volume.array, label[tuple(np.moveaxis(nearest, -1, 0))])
    # it may leave out empty slices, and no others
    assert (volume.array > 0).sum() == (label > 0).sum()
    # the place alone tells the class, whatever was read before
    assert np.array_equal(volume.array, classes(world_of(volume.array.shape, ras)))


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_the_order_of_the_label_s_axes_does_not_matter(tmp_path, signs):
    along, down, across = PLANES["sagittal"] * np.array(signs)[:, None]
    series = write_clinic_series(tmp_path / "ct", along, down, across * 2.2)
    label, affine = segmented(series)
    turned_label, turned_affine = as_ras(label, affine)
    assert turned_label.shape != label.shape
    assert write_dicom_seg(turned_label, turned_affine, series, tmp_path / "ras.dcm", CLASSES) == []
    back, farthest = label_from(tmp_path / "ras.dcm", label.shape, affine)
    assert farthest < 1e-3
    assert np.array_equal(back, label)


def test_a_label_file_is_the_same_as_its_voxels(tmp_path, series):
    label, affine = segmented(series)
    path = save_nifti(tmp_path / "label.nii.gz", label.astype(np.int16), affine)
    assert write_dicom_seg(path, None, series, tmp_path / "a.dcm", CLASSES) == []
    assert write_dicom_seg(label[None], affine, series, tmp_path / "b.dcm", CLASSES) == []
    assert pydicom.dcmread(tmp_path / "a.dcm").PixelData == pydicom.dcmread(tmp_path / "b.dcm").PixelData


def test_every_frame_names_the_slice_at_its_place(tmp_path, series):
    data, _ = written(series, tmp_path / "label.dcm")
    places = {}
    for file in series.iterdir():
        image = pydicom.dcmread(file)
        places[image.SOPInstanceUID] = [float(x) for x in image.ImagePositionPatient]
    for group in data.PerFrameFunctionalGroupsSequence:
        (derivation,) = group.DerivationImageSequence
        (reference,) = derivation.SourceImageSequence
        assert reference.SpatialLocationsPreserved == "YES"
        place = [float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient]
        assert place == pytest.approx(places[reference.ReferencedSOPInstanceUID], abs=1e-6)
        assert reference.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    (listed,) = data.ReferencedSeriesSequence
    assert listed.SeriesInstanceUID == "1.2.3.4"
    assert {item.ReferencedSOPInstanceUID for item in listed.ReferencedInstanceSequence} == set(places)


def test_a_wrong_spacing_between_slices_in_the_headers_is_not_repeated(tmp_path):
    series = axial(tmp_path / "ct", SpacingBetweenSlices="-7", SliceThickness="3")
    data, _ = written(series, tmp_path / "label.dcm")
    measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == 2.0
    volume = highdicom.seg.segread(tmp_path / "label.dcm").get_volume(combine_segments=True)
    assert volume.spacing == pytest.approx((2.0, 1.5, 1.0))


def test_a_tilted_series_gets_a_seg_on_the_reader_s_grid(tmp_path):
    angle = np.radians(18.5)
    series = write_clinic_series(tmp_path / "ct", (1, 0, 0), (0, np.cos(angle), -np.sin(angle)), (0, 0, 2.0))
    label, affine = segmented(series)
    assert label.shape != (16, 13, 11)
    data, notes = written(series, tmp_path / "label.dcm")
    assert notes == ["the DICOM SEG lies on a grid of its own: it refers to the series as a whole, not slice by slice"]
    back, farthest = label_from(tmp_path / "label.dcm", label.shape, affine)
    assert farthest < 1e-3
    assert np.array_equal(back, label)
    assert data.FrameOfReferenceUID == FRAME_OF_REFERENCE
    assert len(data.SourceImageSequence) == 11
    assert not any("DerivationImageSequence" in group for group in data.PerFrameFunctionalGroupsSequence)


def test_slices_that_differ_in_the_last_digits_are_one_series(tmp_path, series):
    with_tags(series / "003.dcm", ImageOrientationPatient=[1, 0.00001, 0, -0.00001, 1, 0])
    label, affine = segmented(series)
    assert written(series, tmp_path / "label.dcm", label, affine)[1] == []


def test_a_volume_in_one_file(tmp_path):
    values = classes(world_of((7, 9, 8), np.diag([-1, -1, 2, 1]) + np.array([[0, 0, 0, 4]] * 2 + [[0] * 4] * 2)))
    path = tmp_path / "volume.dcm"
    write_slice(path, values.transpose(2, 1, 0).astype(np.int16), (-4.0, -4.0, 0.0))
    with_tags(path, FrameOfReferenceUID=FRAME_OF_REFERENCE, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", **PATIENT)
    array, meta = VolumeReader().get_data((str(path),))
    label, affine = (array > 0).astype(np.uint8), np.asarray(meta["affine"], dtype=float)
    data, notes = written(path, tmp_path / "label.dcm", label, affine)
    assert notes[-1].startswith("the DICOM SEG lies on a grid of its own")
    assert np.array_equal(label_from(tmp_path / "label.dcm", label.shape, affine)[0], label)
    (reference,) = data.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.4.1"
    assert reference.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2.1"


# --- what it says ---


def test_the_anatomy_is_coded(tmp_path, series):
    data, _ = written(series, tmp_path / "label.dcm", algorithm=SegAlgorithm("BertsWin demo", "1.2", "ab" * 32))
    from pydicom.sr.codedict import codes

    assert [segment.SegmentLabel for segment in data.SegmentSequence] == CLASSES[1:]
    for segment, name in zip(data.SegmentSequence, ("Mandible", "Skull"), strict=True):
        kind, category = (segment[f"SegmentedProperty{part}CodeSequence"].value[0] for part in ("Type", "Category"))
        expected = getattr(codes.cid7151, name)
        assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == expected[:3]
        assert category.CodeValue == codes.cid7150.AnatomicalStructure.value
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == codes.cid7162.ArtificialIntelligence.value
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("BertsWin demo", "1.2")
        assert algorithm.AlgorithmParameters == f"weights_sha256={'ab' * 32}"
    assert "research use, not a medical device" in data.SeriesDescription
    assert data.ContentQualification == "RESEARCH"


def test_every_known_code_is_that_of_the_standard():
    from pydicom.sr.codedict import codes

    from bertswin_ext.outputs.dicom_seg import ANATOMY

    names = {"mandible": "Mandible", "skull": "Skull", "temporal bone": "TemporalBone", "maxilla": "Maxilla"}
    assert set(names) == set(ANATOMY)
    for name, anatomy in ANATOMY.items():
        assert getattr(codes.cid7151, names[name])[:3] == (anatomy.code, "SCT", anatomy.meaning)


def test_patient_and_study_are_those_of_the_series(tmp_path, series):
    data, _ = written(series, tmp_path / "label.dcm")
    assert {name: str(data[name].value) for name in PATIENT} == PATIENT
    assert (data.StudyInstanceUID, data.FrameOfReferenceUID) == ("1.2.3", FRAME_OF_REFERENCE)
    assert data.SeriesInstanceUID not in ("1.2.3.4", written(series, tmp_path / "again.dcm")[0].SeriesInstanceUID)
    assert data.Modality == "SEG"


@pytest.mark.parametrize(
    ("charset", "name", "others"),
    [
        ("ISO_IR 100", "Müller^Zoë", {}),
        ("ISO_IR 192", "山田^太郎", {}),
        (None, "", {"PatientID": None, "PatientSex": "unknown", "PatientBirthDate": "1970-01-02", "StudyDate": None}),
    ],
)
def test_odd_patients_are_copied_word_for_word_and_not_logged(tmp_path, caplog, recwarn, charset, name, others):
    series = axial(tmp_path / "ct", SpecificCharacterSet=charset, PatientName=name, **others)
    label, affine = segmented(series)
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        write_dicom_seg(label, affine, series, tmp_path / "label.dcm", CLASSES)
    assert caplog.messages == []
    assert [str(w.message) for w in recwarn] == []
    with pydicom.config.disable_value_validation():
        data = pydicom.dcmread(tmp_path / "label.dcm")
        assert str(data.PatientName) == name
        assert {key: data.get(key) or None for key in others} == others


def test_an_empty_class_is_stated(tmp_path, series, caplog):
    label, affine = segmented(series)
    data, notes = written(series, tmp_path / "label.dcm", np.where(label == 2, 2, 0).astype(np.uint8), affine)
    assert notes == ["the DICOM segment mandible is empty: no voxel of this class was found"]
    assert caplog.messages == [f"{tmp_path / 'label.dcm'}: {notes[0]}"]
    assert data.SegmentSequence[0].SegmentDescription == "No voxel of this class was found."
    assert "SegmentDescription" not in data.SegmentSequence[1]
    back, _ = label_from(tmp_path / "label.dcm", label.shape, affine)
    assert np.array_equal(back, np.where(label == 2, 2, 0))


def test_an_empty_label_map_is_written(tmp_path, series):
    label, affine = segmented(series)
    data, notes = written(series, tmp_path / "label.dcm", np.zeros_like(label), affine)
    assert len(notes) == 2
    assert len(data.SegmentSequence) == 2
    assert not label_from(tmp_path / "label.dcm", label.shape, affine)[0].any()


def test_other_classes_need_a_code(tmp_path, series):
    label, affine = segmented(series)
    names = ["background", "mandible", "tooth"]
    with pytest.raises(ValueError, match=r"classes with a code \(mandible, skull.*Give the others a code"):
        write_dicom_seg(label, affine, series, tmp_path / "label.dcm", names)
    tooth = {"mandible": Anatomy("91609006", "Mandible", (1, 2, 3)), "tooth": Anatomy("38199008", "Tooth", (9, 9, 9))}
    write_dicom_seg(label, affine, series, tmp_path / "label.dcm", names, anatomy=tooth)
    segment = pydicom.dcmread(tmp_path / "label.dcm").SegmentSequence[1]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "38199008"


def test_a_seg_is_not_taken_for_a_scan(tmp_path, series):
    written(series, series / "label.dcm")
    written(series, tmp_path / "out" / "label.dcm")
    assert is_segmentation_file(series / "label.dcm")
    assert not is_segmentation_file(series / "000.dcm")
    assert find_volumes(tmp_path) == [(series, "ct")]
    label, affine = segmented(series)
    assert label.shape == (16, 13, 11)
    assert written(series, tmp_path / "again.dcm", label, affine)[1] == []


# --- what is refused ---


def refusal(series, path, label, affine, error=VolumeError):
    with pytest.raises(error) as caught:
        write_dicom_seg(label, affine, series, path, CLASSES)
    assert not path.exists()
    return str(caught.value)


def test_the_label_of_another_scan_is_refused(tmp_path, series):
    label, affine = segmented(series)
    affine[2, 3] += 100
    assert "lies beside all of its slices. It is that of another scan." in refusal(
        series, tmp_path / "label.dcm", label, affine
    )


def test_what_highdicom_does_not_take_is_refused_without_a_word_of_the_patient(tmp_path, series, monkeypatch):
    def fail(**arguments):
        raise KeyError(PATIENT["PatientName"])

    label, affine = segmented(series)
    monkeypatch.setattr(highdicom.seg, "Segmentation", fail)
    with pytest.raises(VolumeError, match=r"its headers break the rules of DICOM \(KeyError\)") as caught:
        write_dicom_seg(label, affine, series, tmp_path / "label.dcm", CLASSES)
    assert PATIENT["PatientName"] not in "".join(traceback.format_exception(caught.value))
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_a_sheared_grid_is_refused(tmp_path, series):
    label, affine = segmented(series)
    affine[0, 2] += 0.2
    assert "must be at right angles" in refusal(series, tmp_path / "label.dcm", label, affine)
    affine[0, 2] = np.nan
    assert "must be finite" in refusal(series, tmp_path / "label.dcm", label, affine)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda label: label * 3, "The label map holds 6, but `class_names` ends at 2"),
        (lambda label: label * 0.5, "must hold whole numbers"),
        (lambda label: label.astype(int) - 1, "must hold 0 to 255, got -1 to 1"),
        (lambda label: label[0], "must be one volume"),
        (lambda label: label[:, :0], "must be one volume"),
    ],
)
def test_what_is_no_label_map_is_refused(tmp_path, series, change, fault):
    label, affine = segmented(series)
    assert fault in refusal(series, tmp_path / "label.dcm", change(label), affine, ValueError)
    assert "must come with its `affine`" in refusal(series, tmp_path / "label.dcm", label, None, ValueError)


def test_without_uids_nothing_is_referred_to(tmp_path):
    series = axial(tmp_path / "ct", SOPInstanceUID="", SOPClassUID="", StudyInstanceUID="")
    label, affine = segmented(series)
    text = refusal(series, tmp_path / "label.dcm", label, affine)
    assert "StudyInstanceUID is missing or empty in 11 of 11 files" in text
    data, notes = written(series, tmp_path / "label.dcm", label, affine, replace_missing_uids=True)
    assert notes == ["the series has no UIDs of its own: the DICOM SEG has made-up ones and refers to no image"]
    assert "SourceImageSequence" not in data
    assert "ReferencedSeriesSequence" not in data
    assert not any("DerivationImageSequence" in group for group in data.PerFrameFunctionalGroupsSequence)
    again, _ = written(series, tmp_path / "again.dcm", label, affine, replace_missing_uids=True)
    assert again.StudyInstanceUID == data.StudyInstanceUID
    assert np.array_equal(label_from(tmp_path / "label.dcm", label.shape, affine)[0], label)


def test_the_missing_package_is_named(tmp_path, series, monkeypatch):
    label, affine = segmented(series)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ImportError, match=r'needs highdicom .* pip install "bertswin-ext\[dicom\]"'):
        write_dicom_seg(label, affine, series, tmp_path / "label.dcm", CLASSES)


# --- real series ---


@pytest.mark.skipif(not REAL.is_dir(), reason="no real volumes: set BERTSWIN_REAL_DATA to the folder that holds them")
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("03_ge_head_tilt_dicom/dicom", "the DICOM SEG lies on a grid of its own"),
        ("05_totalseg_dicom_j2k/dicom", "the series has no UIDs of its own"),
    ],
)
def test_real_series(tmp_path, name, note):
    array, meta = VolumeReader().get_data((str(REAL / name),))
    affine = np.asarray(meta["affine"], dtype=float)
    label = np.where(array > 300, 2, 0).astype(np.uint8)
    label[: label.shape[0] // 3] //= 2
    stored = nib.load(save_nifti(tmp_path / "label.nii.gz", label, affine))
    made_up = name.startswith("05")
    _, notes = written(REAL / name, tmp_path / "label.dcm", label, affine, replace_missing_uids=made_up)
    assert notes[0].startswith(note)
    back, farthest = label_from(tmp_path / "label.dcm", stored.shape, stored.affine)
    assert farthest < 1e-3
    assert np.array_equal(back, label)
