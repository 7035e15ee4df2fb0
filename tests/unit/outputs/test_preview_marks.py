"""Marks are where the joints are."""

import matplotlib.colors
import numpy as np
import pytest

from bertswin_ext.evaluation.case_gallery import gallery_figure
from bertswin_ext.evaluation.case_planes import cut_planes
from bertswin_ext.outputs.joint_report import JointReport
from bertswin_ext.outputs.joint_space import JointSpace
from bertswin_ext.outputs.preview_marks import Panels, mark_joint, mark_joints, mark_notice

SPACING = (0.5, 1.0, 2.0)
AFFINE = np.array([[0.5, 0, 0, -10], [0, 1.0, 0, 5], [0, 0, 2.0, 0], [0, 0, 0, 1]])
LOW = (4, 2, 1)
CENTER = (-5.0, 12.0, 10.0)  # voxel (10, 7, 5), in the box (6, 5, 4)
IN_BOX = {"axial": (3.25, 5.5), "coronal": (3.25, 9.0), "sagittal": (5.5, 9.0)}


def panels_of(low=LOW):
    volume = np.zeros((20, 16, 12), dtype=np.uint8)
    planes = cut_planes(volume, volume, None, SPACING, (6, 5, 4))
    return Panels(gallery_figure([planes], ["background", "bone"]), 0, SPACING, planes, low)


def named(panels):
    return dict(zip(("axial", "coronal", "sagittal"), panels.figure.axes, strict=True))


def lines(axes, marker):
    return [line for line in axes.lines if line.get_marker() == marker]


def test_a_voxels_centre_is_half_a_voxel_from_its_face():
    assert panels_of().places_mm(AFFINE, CENTER).tolist() == [3.25, 5.5, 9.0]


def test_the_centre_and_the_narrowest_place_of_a_joint():
    panels = panels_of()
    space = JointSpace(2.0, (-5.0, 12.0, 9.0), (-5.0, 12.0, 11.0))
    mark_joint(panels, AFFINE, JointReport("left", CENTER, space=space))
    for name, axes in named(panels).items():
        (cross,) = lines(axes, "+")
        assert (cross.get_xdata()[0], cross.get_ydata()[0]) == pytest.approx(IN_BOX[name])
        (ends,) = lines(axes, "o")
        assert ends.get_xdata().tolist() == pytest.approx([IN_BOX[name][0]] * 2)
        expected = [5.5, 5.5] if name == "axial" else [8.0, 10.0]
        assert ends.get_ydata().tolist() == pytest.approx(expected)
        assert matplotlib.colors.to_hex(ends.get_color()) == "#ff5ad1"


def test_a_joint_that_was_not_measured_has_no_line():
    panels = panels_of()
    mark_joint(panels, AFFINE, JointReport("left", CENTER, space=JointSpace(None, reason="no skull")))
    assert [len(lines(axes, "o")) for axes in panels.figure.axes] == [0, 0, 0]


def test_names_and_boxes_in_the_whole_scan():
    panels = panels_of((0, 0, 0))
    joints = [
        JointReport("left", CENTER, 0.876, box_mm=(4.0, 6.0, 8.0)),
        JointReport("right", (-3.0, 12.0, 10.0)),
        JointReport(None, None),
    ]
    mark_joints(panels, AFFINE, joints)
    for name, axes in named(panels).items():
        texts = [text.get_text() for text in axes.texts]
        assert "left 0.88" in texts
        assert "right given" in texts
        assert len(lines(axes, "o")) == 2
        (box,) = axes.patches
        size = {"axial": (4, 6), "coronal": (4, 8), "sagittal": (6, 8)}[name]
        assert (box.get_width(), box.get_height()) == size
        middle = {"axial": (5.25, 7.5), "coronal": (5.25, 11.0), "sagittal": (7.5, 11.0)}[name]
        assert box.get_center() == pytest.approx(middle)


def test_names_do_not_hide_each_other_from_the_side():
    panels = panels_of((0, 0, 0))
    mark_joints(panels, AFFINE, [JointReport("left", CENTER), JointReport("right", CENTER)])
    sides = {text.get_text(): text.get_va() for text in named(panels)["sagittal"].texts}
    assert (sides["left given"], sides["right given"]) == ("bottom", "top")


@pytest.mark.parametrize(("columns", "length"), [(20, "2 mm"), (400, "50 mm")])
def test_the_scale_has_its_length(columns, length):
    volume = np.zeros((columns, 16, 12), dtype=np.uint8)
    planes = cut_planes(volume, volume, None, SPACING, (6, 5, 4))
    panels = Panels(gallery_figure([planes], ["background", "bone"]), 0, SPACING, planes)
    mark_joint(panels, AFFINE, JointReport(None, None))
    axes = named(panels)["axial"]
    assert length in [text.get_text() for text in axes.texts]
    (scale,) = (line for line in axes.lines if line.get_linewidth() == 2.0)
    assert np.ptp(scale.get_xdata()) == float(length.split()[0])


def test_the_notice():
    panels = panels_of()
    mark_notice(panels.figure)
    assert panels.figure.texts[-1].get_text() == "Research only. Not a medical device."
