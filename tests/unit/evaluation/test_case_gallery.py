"""Planes, directions, contours and colours of the pictures."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.collections import Collection

from bertswin_ext.evaluation.case_gallery import gallery_figure, write_gallery, write_overlay
from bertswin_ext.evaluation.case_planes import cut_planes

NAMES = ["background", "mandible", "skull"]
SHAPE = (8, 12, 16)


def make_case(reference=True, shape=SHAPE, spacing=(1, 1, 1), title="P1"):
    label = np.zeros(shape, dtype=np.uint8)
    label[2:6, 3:7, 4:8] = 1
    label[:, :, 12:] = 2
    image = np.zeros(shape, dtype=np.float32)
    image[4, 6, 15] = 1000
    focus = tuple(size // 2 for size in shape)
    truth = np.roll(label, 1, axis=1) if reference else None
    return cut_planes(image, label, truth, spacing, focus, title)


def panels(figure):
    return dict(zip(("axial", "coronal", "sagittal"), figure.axes, strict=False))


def contours(axes):
    return [entry for entry in axes.collections if isinstance(entry, Collection)]


def test_planes_and_directions():
    figure = gallery_figure([make_case()], NAMES)
    found = panels(figure)
    shapes = {name: axes.images[0].get_array().shape for name, axes in found.items()}
    assert shapes == {"axial": (12, 8), "coronal": (16, 8), "sagittal": (16, 12)}
    assert np.argwhere(found["sagittal"].images[0].get_array() == 1000).tolist() == [[15, 6]]
    assert np.argwhere(found["coronal"].images[0].get_array() == 1000).tolist() == [[15, 4]]
    assert {axes.images[0].origin for axes in figure.axes} == {"lower"}
    letters = {name: [text.get_text() for text in axes.texts] for name, axes in found.items()}
    assert letters["axial"] == ["R", "L", "P", "A", "axial"]
    assert letters["sagittal"] == ["A", "P", "I", "S", "sagittal"]


def test_the_patients_right_is_on_the_left():
    """In RAS order i grows to the right and j to the front: both are drawn from right to left."""
    found = panels(gallery_figure([make_case()], NAMES))
    assert found["axial"].get_xlim() == (8, 0)
    assert found["axial"].get_ylim() == (0, 12)
    assert found["sagittal"].get_xlim() == (12, 0)


def test_panels_have_the_proportions_of_the_volume():
    figure = gallery_figure([make_case(spacing=(0.5, 1, 2))], NAMES)
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes]
    ratios = [box.height * height / (box.width * width) for box in boxes]
    assert ratios == pytest.approx([12 / 4, 32 / 4, 32 / 12])
    heights = [box.height for box in boxes]
    assert heights[1] == pytest.approx(heights[2])  # one scale
    assert {round(box.y1, 6) for box in boxes} == {round(boxes[0].y1, 6)}


def test_bone_window():
    image = gallery_figure([make_case()], NAMES).axes[0].images[0]
    low, high = image.get_clim()
    assert ((low + high) / 2, high - low) == (400, 2500)


def test_contours_of_reference_and_prediction():
    figure = gallery_figure([make_case()], NAMES)
    coronal = contours(panels(figure)["coronal"])
    assert len(coronal) == 4  # two classes, solid and dashed
    styles = [entry.get_linestyle()[0][1] for entry in coronal]
    assert [style is None for style in styles] == [True, True, False, False]
    assert len({tuple(entry.get_edgecolor()[0]) for entry in coronal}) == 4


def test_a_contour_is_where_its_class_is():
    axial = panels(gallery_figure([make_case(spacing=(1, 1, 1), reference=False)], NAMES))["axial"]
    assert contours(axial) == []  # k = 8 is between the classes
    coronal = panels(gallery_figure([make_case(spacing=(2, 1, 1), reference=False)], NAMES))["coronal"]
    low, high = contours(coronal)[0].get_paths()[0].get_extents().get_points()
    assert low.tolist() == pytest.approx([4, 4])  # half way between the voxels' centres
    assert high.tolist() == pytest.approx([12, 8])


def test_what_the_volume_cuts_off_is_open():
    """The skull fills the upper planes: its contour in the coronal plane is one line across."""
    skull = contours(panels(gallery_figure([make_case(reference=False)], NAMES))["coronal"])[1]
    assert set(skull.get_paths()[0].vertices[:, 1].round(6)) == {12.0}


def test_wrong_voxels_are_tinted():
    axes = panels(gallery_figure([make_case()], NAMES))["sagittal"]
    tint = axes.images[1].get_array()
    assert np.argwhere(tint[..., 3] > 0).tolist() == [[k, j] for k in range(4, 8) for j in (3, 7)]


def test_without_a_reference_the_classes_are_tinted():
    tint = panels(gallery_figure([make_case(reference=False)], NAMES))["sagittal"].images[1].get_array()
    assert (tint[..., 3] > 0).sum() == 4 * 4 + 4 * 12
    assert not np.allclose(tint[5, 5], tint[13, 5])


@pytest.mark.parametrize(
    ("reference", "labels"),
    [
        (False, ["mandible", "skull"]),
        (
            True,
            ["mandible, reference", "mandible, prediction", "skull, reference", "skull, prediction", "differ"],
        ),
    ],
)
def test_legend(reference, labels):
    figure = gallery_figure([make_case(reference)], NAMES)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels


def test_several_cases_of_several_sizes():
    cases = [make_case(title="first\nline"), make_case(shape=(20, 9, 17), title="second")]
    figure = gallery_figure(cases, NAMES, "the worst")
    assert [text.get_text() for text in figure.texts] == ["the worst", "first\nline", "second"]
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 6
    assert min(box.y0 for box in boxes[:3]) > max(box.y1 for box in boxes[3:])
    assert all(0 <= box.x0 <= box.x1 <= 1 and 0 <= box.y0 <= box.y1 <= 1 for box in boxes)


def test_files(tmp_path):
    write_gallery(tmp_path / "new" / "worst.png", [make_case()], NAMES)
    assert matplotlib.image.imread(tmp_path / "new" / "worst.png").shape[2] == 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["worst.png"]


@pytest.mark.parametrize("referenced", [False, True])
def test_an_overlay_goes_through_what_matters(tmp_path, monkeypatch, referenced):
    label = np.zeros(SHAPE, dtype=np.int64)
    label[2:6, 3:7, 4:8] = 1
    reference = label.copy()
    reference[7, 11, 15] = 2
    cut = []
    monkeypatch.setattr(
        "bertswin_ext.evaluation.case_gallery.cut_planes", lambda *args: cut.append(args) or cut_planes(*args)
    )
    write_overlay(tmp_path / "a.png", label, label, (1, 1, 1), NAMES, reference if referenced else None, "a title")
    focus = cut[0][4]
    assert focus == (7, 11, 15) if referenced else (2 <= focus[0] < 6 and 3 <= focus[1] < 7 and 4 <= focus[2] < 8)
    assert cut[0][5] == "a title"
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="`cases` must hold at least one case, got none"):
        gallery_figure([], NAMES)
    image, label = np.zeros(SHAPE), np.zeros(SHAPE, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"The reference must be .* got 4 x 12 x 16 voxels for an image of 8 x"):
        write_overlay(tmp_path / "a.png", image, label, (1, 1, 1), NAMES, label[:4])
    assert not (tmp_path / "a.png").exists()
