"""Pictures of scans: scale, sides of the patient, marks in the right place; and histograms."""

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bertswin_ext.data.preparation.scan_thumbnail import (
    FOV_COLOR,
    SIDE_COLORS,
    _as_png,
    hu_histogram,
    side_color,
    write_thumbnail,
)
from bertswin_ext.geometry import FieldOfView

SHAPE, SPACING_MM, ORIGIN_MM = (100, 80, 40), (0.5, 0.5, 1.5), (-20.0, 10.0, 30.0)  # 50 x 40 x 60 mm
SCALE = (320 - 22 - 8) / 60  # pixels per mm: the height decides
MIDDLE = (50, 40, 20)


def panels():
    """Left, right, upper and lower pixel of each slice."""
    gap = (900 - 140 * SCALE) / 4
    left = gap
    for width, height in ((50, 40), (50, 60), (40, 60)):
        yield tuple(round(edge) for edge in (left, left + width * SCALE, 22, 22 + height * SCALE))
        left += width * SCALE + gap


PANELS = list(panels())


def affine_of(spacing=SPACING_MM, origin=ORIGIN_MM):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def world(voxel):
    return tuple(float(v) for v in np.array(voxel) * SPACING_MM + ORIGIN_MM)


def air():
    return np.full(SHAPE, -1000, dtype=np.int16)


def with_block(start, stop):
    volume = air()
    volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 3000
    return volume


def picture(tmp_path, volume=None, affine=None, **drawn):
    """Pixels, 0 to 255, (lines, columns, RGB)."""
    write_thumbnail(
        tmp_path / "a.png", air() if volume is None else volume, affine_of() if affine is None else affine, **drawn
    )
    return np.rint(matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).astype(int)


def bright(pixels):
    """What is nearer to bone than to air, without letters and titles."""
    mask = pixels.min(axis=-1) > 127
    mask[:22] = False
    for left, right, upper, lower in PANELS:
        x, y = (left + right) // 2, (upper + lower) // 2
        for at in ((y, left + 6), (y, right - 6), (lower - 6, x), (upper + 6, x)):
            mask[at[0] - 9 : at[0] + 10, at[1] - 9 : at[1] + 10] = False
    return mask


def like(pixels, color):
    return (np.abs(pixels - np.rint(255 * np.array(to_rgb(color)))) <= 8).all(axis=-1)


def boxes_of(mask):
    """Left, right, upper and lower pixel of what is in the axial, the coronal and the sagittal slice."""
    found = []
    for left, right, _, _ in PANELS:
        lines, columns = np.nonzero(mask[:, left - 4 : right + 5])
        edges = (columns.min() + left - 4, columns.max() + left - 4, lines.min(), lines.max()) if lines.size else None
        found.append(edges)
    return found


def size_of(box):
    left, right, upper, lower = box
    return right - left + 1, lower - upper + 1


def middle_of(box):
    left, right, upper, lower = box
    return (left + right) / 2, (upper + lower) / 2


def test_all_slices_have_one_scale_in_millimetres(tmp_path):
    pixels = picture(tmp_path, with_block((30, 30, 14), (70, 54, 30)))  # 20 x 12 x 24 mm
    assert pixels.shape == (320, 900, 3)
    axial, coronal, sagittal = (size_of(box) for box in boxes_of(bright(pixels)))
    assert axial == pytest.approx((20 * SCALE, 12 * SCALE), abs=4)
    assert coronal == pytest.approx((20 * SCALE, 24 * SCALE), abs=4)
    assert sagittal == pytest.approx((12 * SCALE, 24 * SCALE), abs=4)


def test_a_flat_scan_gives_a_low_picture(tmp_path):
    assert picture(tmp_path, air()[:, :, :10]).shape[0] == pytest.approx(22 + 8 + 40 * (900 - 32) / 140, abs=1)


def test_thinned_slices_keep_their_scale(tmp_path):
    volume = np.full((1300, 1300, 1), -1000, dtype=np.int16)
    volume[325:975, 325:975] = 3000
    pixels = picture(tmp_path, volume, affine_of((0.1, 0.1, 0.1)))
    lines, columns = np.nonzero(pixels[50:280, 30:280].min(axis=-1) > 127)
    assert (np.ptp(columns) + 1, np.ptp(lines) + 1) == pytest.approx((868 / 6, 868 / 6), abs=3)


def test_right_anterior_and_superior_are_on_the_left_and_at_the_top(tmp_path):
    pixels = picture(tmp_path, with_block((50, 40, 20), (90, 70, 35)))  # from the middle towards that corner
    for box, (left, right, upper, lower) in zip(boxes_of(bright(pixels)), PANELS, strict=True):
        assert box[1] == pytest.approx((left + right) / 2, abs=3)
        assert box[3] == pytest.approx((upper + lower) / 2, abs=3)
        assert box[0] < box[1] - 60
        assert box[2] < box[3] - 60


@pytest.mark.parametrize("joint", ["left", "right", None])
def test_a_cross_marks_the_centre_in_every_slice(tmp_path, joint):
    at = (70, 30, 12)
    pixels = picture(tmp_path, with_block((64, 24, 9), (77, 37, 16)), centers=[(joint, world(at))])
    crosses, blocks = boxes_of(like(pixels, side_color(joint))), boxes_of(bright(pixels))
    for cross, block in zip(crosses, blocks, strict=True):
        assert middle_of(cross) == pytest.approx(middle_of(block), abs=1.5)
        assert min(size_of(cross)) >= 12


def test_a_centre_beside_the_slice_is_a_dot(tmp_path):
    pixels = picture(tmp_path, centers=[("left", world((20, 40, 20))), ("right", world((80, 40, 20)))])
    for color in SIDE_COLORS.values():
        axial, coronal, _ = boxes_of(like(pixels, color))
        assert min(*size_of(axial), *size_of(coronal)) >= 12
    # the sagittal slice passes through the first joint, so that there is one to see
    assert min(size_of(boxes_of(like(pixels, SIDE_COLORS["left"]))[2])) >= 12
    beside = boxes_of(like(pixels, SIDE_COLORS["right"]))[2]
    assert beside is None or max(size_of(beside)) <= 8
    right = boxes_of(like(pixels, SIDE_COLORS["right"]))[0]
    left = boxes_of(like(pixels, SIDE_COLORS["left"]))[0]
    assert middle_of(left)[0] - middle_of(right)[0] == pytest.approx(30 * SCALE, abs=2)


@pytest.mark.parametrize(("spacing", "thick", "seen"), [(0.5, 3, True), (0.5, 2, False), (1.5, 1, True)])
def test_a_slice_is_about_a_millimetre_thick(tmp_path, spacing, thick, seen):
    volume = air()
    volume[:, :, 19 : 19 + thick if thick > 1 else 20] = 3000
    volume = np.roll(volume, 1, axis=2) if thick == 1 else volume  # the middle slice is 20
    axial = picture(tmp_path, volume, affine_of((0.5, 0.5, spacing)))[:, :290]
    assert (axial.min(axis=-1) > 245).any() == seen


def test_a_centre_outside_the_scan_is_no_reason_to_fail(tmp_path):
    pixels = picture(tmp_path, centers=[("left", (900.0, 0.0, 0.0))])
    assert pixels.shape[1] == 900


def test_the_field_of_view_is_a_circle_in_the_axial_slice_only(tmp_path):
    fov = FieldOfView(world(MIDDLE), 15.0)
    box, *others = boxes_of(like(picture(tmp_path, fov=fov), FOV_COLOR))
    assert others == [None, None]
    assert size_of(box) == pytest.approx((30 * SCALE, 30 * SCALE), abs=4)
    assert middle_of(box) == pytest.approx(middle_of(PANELS[0]), abs=4)


def test_a_tilted_field_of_view_is_an_ellipse(tmp_path):
    fov = FieldOfView(world(MIDDLE), 12.0, axis=(1.0, 0.0, 1.0))
    box, *_ = boxes_of(like(picture(tmp_path, fov=fov), FOV_COLOR))
    assert size_of(box) == pytest.approx((24 * 2**0.5 * SCALE, 24 * SCALE), abs=5)


@pytest.mark.parametrize("radius", [500.0, 0.01])
def test_a_field_of_view_that_does_not_cross_the_slice_is_not_drawn(tmp_path, radius):
    fov = FieldOfView((-21.0, 9.0, 0.0), radius)
    assert not like(picture(tmp_path, fov=fov), FOV_COLOR).any()


def test_boxes_have_the_colour_of_their_joint(tmp_path):
    regions = [((5, 30, 10), (35, 50, 30)), ((65, 30, 10), (95, 50, 30)), ((40, 2, 2), (60, 12, 6))]
    centers = [("left", world((20, 40, 20))), ("right", world((80, 40, 20)))]
    pixels = picture(tmp_path, centers=centers, boxes=regions)
    for color in SIDE_COLORS.values():
        axial, coronal, _ = boxes_of(like(pixels, color))
        assert size_of(axial) == pytest.approx((15 * SCALE, 10 * SCALE), abs=3)
        assert size_of(coronal) == pytest.approx((15 * SCALE, 30 * SCALE), abs=3)
    assert size_of(boxes_of(like(pixels, side_color(None)))[0]) == pytest.approx((10 * SCALE, 5 * SCALE), abs=3)


def test_a_box_runs_between_voxels(tmp_path):
    region = ((30, 30, 14), (70, 54, 30))
    pixels = picture(tmp_path, with_block(*region))
    outlined = picture(tmp_path, boxes=[region])
    for block, box in zip(boxes_of(bright(pixels)), boxes_of(like(outlined, side_color(None))), strict=True):
        assert box == pytest.approx(block, abs=2)


def test_the_same_scan_gives_the_same_bytes_and_no_more_than_needed(tmp_path):
    noisy = np.random.default_rng(0).normal(300, 150, (160, 160, 160)).astype(np.int16)
    for name in "ab":
        write_thumbnail(tmp_path / name, noisy, affine_of((0.4, 0.4, 0.4)), [("left", (0.0, 40.0, 60.0))])
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes()
    assert len(first) < 150_000
    assert {first[at + 4 : at + 8] for at in (8, 33)} == {b"IHDR", b"PLTE"}
    assert not any(chunk in first for chunk in (b"tEXt", b"tIME", b"Software"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_air_is_black_and_bone_bright(tmp_path):
    volume = air()
    volume[50:] = 600  # the middle of the bone window
    axial = picture(tmp_path, volume)[40:280, 60:280]
    x = boxes_of((axial.min(axis=-1) > 100) & (axial.max(axis=-1) < 160))[0]
    assert np.median(axial[:, x[0] + 5 : x[1] - 5]) == pytest.approx(128, abs=6)
    assert axial[100, -20].tolist() == [0, 0, 0]


def test_the_palette_keeps_colours_and_greys(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    drawn[20:] = drawn[20:, :, :1]
    (tmp_path / "a.png").write_bytes(_as_png(drawn))
    read = np.rint(matplotlib.image.imread(tmp_path / "a.png")[..., :3] * 255).astype(int)
    away = np.abs(read - drawn)
    assert away[:20].max() <= 26
    assert away[20:].max() <= 4
    assert np.ptp(read[20:], axis=-1).max() == 0


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_volumes_of_any_number_type(tmp_path, dtype):
    assert bright(picture(tmp_path, with_block((30, 30, 14), (70, 54, 30)).astype(dtype))).any()


@pytest.mark.parametrize("shape", [(4, 4), (4, 0, 4), (1, 4, 4, 4)])
def test_a_volume_has_three_axes(tmp_path, shape):
    with pytest.raises(ValueError, match=r"`volume` must be \(i, j, k\) with voxels on each axis, got shape"):
        write_thumbnail(tmp_path / "a.png", np.zeros(shape), np.eye(4))


def test_a_volume_that_is_not_oriented_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`volume` must be in RAS order, its affine says LPS. Orient it first"):
        write_thumbnail(tmp_path / "a.png", air(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert not (tmp_path / "a.png").exists()


# --- histograms ---


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("bins", [64, 42, 18, 7])
def test_every_whole_value_counts_where_the_edges_say(dtype, bins):
    values = np.arange(-1100, 3100).astype(dtype)
    edges = np.linspace(-1100, 3100, bins + 1)
    found = hu_histogram(values.reshape(60, 70), bins)
    assert found["edges_hu"] == edges.tolist()
    steps = (np.arange(4200) * bins) // 4200
    assert found["counts"] == np.bincount(steps, minlength=bins).tolist()


def test_what_lies_outside_counts_in_the_first_and_the_last_step():
    values = np.array([-32768, -1101, -1100, 3099, 3100, 32767], dtype=np.int16)
    counts = hu_histogram(values)["counts"]
    assert (counts[0], counts[-1], sum(counts)) == (3, 3, 6)
    values = np.array([-np.inf, np.inf, np.nan, 0.0])
    counts = hu_histogram(values)["counts"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 3)


def test_a_large_volume_is_counted_in_parts():
    values = np.zeros((130, 130, 130), dtype=np.int16)  # more than two million
    values[-1, -1, -1] = 3000
    counts = hu_histogram(values[::-1])["counts"]
    assert sum(counts) == 130**3
    assert sorted(counts)[-3:] == [0, 1, 130**3 - 1]


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"low": 5, "high": 5}, {"low": np.nan}])
def test_a_histogram_needs_steps(wrong):
    with pytest.raises(ValueError, match="A histogram needs `bins` >= 1 and `low` < `high`, got"):
        hu_histogram(np.zeros(3), **wrong)


def test_colours_of_the_sides_differ():
    assert len({side_color("left"), side_color("right"), side_color(None), FOV_COLOR}) == 4
    assert side_color("elsewhere") == side_color(None)
