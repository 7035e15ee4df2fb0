"""What the picture of a scan shows."""

import matplotlib.image
import numpy as np
import pytest

from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import JointSpace
from bertswin_ext.outputs.scan_preview import preview_figure, write_preview

NAMES = ["background", "mandible", "skull"]
SHAPE = (90, 80, 70)


def affine_of(degrees=0.0, spacing=1.0):
    angle = np.radians(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = [-45, 10, -100]
    return affine


def scan():
    image = np.full(SHAPE, -1000, dtype=np.int16)
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[40:50, 30:40, 10:30], label[30:60, 20:50, 33:40] = 1, 2
    image[label > 0] = 1200
    return image, label


def joint(voxel, affine, **options):
    center = (affine @ [*voxel, 1])[:3]
    return JointReport("left", tuple(center.tolist()), **options)


def headings(figure):
    return [text.get_text() for text in figure.texts]


def test_the_scan_and_three_planes_for_every_joint(tmp_path):
    joints = [joint((45, 35, 31), affine_of()), joint((20, 20, 20), affine_of(), confidence=0.5)]
    write_preview(tmp_path / "new" / "p.png", *scan(), affine_of(), joints, NAMES, "P1", ["Look twice."])
    assert matplotlib.image.imread(tmp_path / "new" / "p.png").std() > 0.1
    figure = preview_figure(*scan(), affine_of(), joints, NAMES, "P1", ["Look twice."])
    assert len(figure.axes) == 9
    assert headings(figure) == [
        "P1",
        "whole scan: 90 x 80 x 70 voxels of 1 x 1 x 1 mm\nWarning: Look twice.",
        "left joint: centre given",
        "left joint: found with confidence 0.50",
        "Research only. Not a medical device.",
    ]


def test_planes_pass_through_the_centre_and_end_near_it():
    image, label = scan()
    image[20, 25, 30] = 3000
    figure = preview_figure(image, label, affine_of(), [joint((20, 25, 30), affine_of())], NAMES)
    axial, coronal, sagittal = (axes.images[0].get_array() for axes in figure.axes[3:])
    # 27 mm to each side, as far as there are voxels
    assert (axial.shape, coronal.shape, sagittal.shape) == ((53, 48), (55, 48), (55, 53))
    assert (axial[25, 20], coronal[27, 20], sagittal[27, 25]) == (3000, 3000, 3000)
    (cross,) = (line for line in figure.axes[3].lines if line.get_marker() == "+")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (20.5, 25.5)


def test_planes_pass_through_the_narrowest_place_where_it_is_known():
    image, label = scan()
    image[50, 30, 33] = 3000
    affine = affine_of(spacing=0.5)
    ends = [tuple((affine @ [50, 30, k, 1])[:3].tolist()) for k in (31, 35)]
    known = joint((40, 40, 30), affine, space=JointSpace(2.0, *ends))
    figure = preview_figure(image, label, affine, [known], NAMES)
    assert [axes.images[0].get_array().max() for axes in figure.axes[3:]] == [3000] * 3
    assert "left joint: centre given, joint space 2.00 mm at the narrowest place, shown here" in headings(figure)


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (JointSpace(None, reason="no skull"), "left joint: centre given, joint space not measured (no skull)"),
        (JointSpace(0.0, (0.0,) * 3, (0.0,) * 3), "left joint: centre given, the bones touch at the place shown here"),
    ],
)
def test_joints_without_a_width(space, text):
    figure = preview_figure(*scan(), affine_of(), [joint((45, 35, 31), affine_of(), space=space)], NAMES)
    assert text in headings(figure)


def test_a_tilted_scan_says_so_and_its_marks_are_right():
    affine = affine_of(20)
    image, label = scan()
    image[30, 40, 35] = 3000
    figure = preview_figure(image, label, affine, [joint((30, 40, 35), affine)], NAMES)
    assert headings(figure)[1].endswith("planes along its axes, which are tilted by up to 20 degrees")
    axial = figure.axes[3]
    (cross,) = (line for line in axial.lines if line.get_marker() == "+")
    shown = axial.images[0].get_array()
    assert shown[int(cross.get_ydata()[0]), int(cross.get_xdata()[0])] == 3000


@pytest.mark.parametrize("joints", [[], [JointReport(None, None)]])
def test_without_a_joint_it_shows_the_anatomy(joints):
    figure = preview_figure(*scan(), affine_of(), joints, NAMES)
    assert "where most of the anatomy is" in headings(figure)
    assert figure.axes[3].images[0].get_array().shape == (80, 90)


def test_many_warnings_are_cut_and_long_ones_wrapped():
    figure = preview_figure(*scan(), affine_of(), [], NAMES, warnings=["many words " * 20] + ["short"] * 6)
    lines = headings(figure)[1].splitlines()
    assert max(map(len, lines)) <= 105
    assert lines[-1] == "and 2 more in the report"
    assert lines.count("Warning: short") == 4


def test_only_planes_of_a_volume_are_copied(monkeypatch):
    """A volume that is one value behind 600^3 addresses: a copy of it would take 430 MB."""
    import tracemalloc

    shape = (600, 600, 600)
    image, label = np.broadcast_to(np.int16(0), shape), np.broadcast_to(np.uint8(1), shape)
    tracemalloc.start()
    preview_figure(image, label, np.diag([0.2, 0.2, 0.2, 1]), [JointReport("left", (60.0, 60.0, 60.0))], NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": np.zeros((4, 4, 4), dtype=np.uint8)}, r"on one grid, got 90 x 80 x 70 and 4 x 4 x 4 voxels"),
        ({"affine": np.diag([-1, 1, 1, 1])}, r"needs volumes with axes closest to RAS\. Orient them with Orientationd"),
    ],
)
def test_volumes_that_do_not_fit(change, message):
    image, label = scan()
    given = {"image": image, "label": label, "affine": affine_of(), **change}
    with pytest.raises(ValueError, match=message):
        preview_figure(**given, joints=[], class_names=NAMES)
