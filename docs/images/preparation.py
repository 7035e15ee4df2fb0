"""Draw how a scan becomes what the network sees, grey values that are no HU, and a thumbnail of the report.

Run it with ``python docs/images/preparation.py``; it takes half a minute. The thumbnail is drawn where a label map of
DentalSegmentator is given: ``python docs/images/preparation.py jaw_labels.nii.gz``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from bertswin_ext.data.datalist import load_items
from bertswin_ext.data.phantoms.nifti_files import write_scan
from bertswin_ext.data.phantoms.phantom import make_phantom
from bertswin_ext.data.phantoms.phantom_scanner import FOV_RADIUS_MM
from bertswin_ext.data.phantoms.semi_synthetic import write_semi_synthetic
from bertswin_ext.data.preparation.intensity import DENSE_BONE_HU, SOFT_TISSUE_HU, fit_intensity, why_not_hu
from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
from bertswin_ext.data.preparation.prepare import prepare
from bertswin_ext.data.preparation.scan_thumbnail import FOV_COLOR, SIDE_COLORS
from bertswin_ext.geometry import FieldOfView, moved
from bertswin_ext.stored_volume import open_stored_volume
from bertswin_ext.transforms.crop_plan import CropPlan
from bertswin_ext.transforms.pipelines import device_transforms, pretraining_transforms
from bertswin_ext.voxels import AIR_HU, VOXELS

HERE = Path(__file__).parent

# the recipe at half its resolution: 0.4 mm for 0.2, 200 voxels for 400, 112 for 224, tokens of 8 for 16
SPACING_MM, ROI, CROP, PATCH = 0.4, 200, 112, 8
SCAN_SIZE, PHANTOM, CROP_SEED = (300, 300, 160), 3, 23
WINDOW_HU = (-600.0, 1800.0)
CROP_COLOR = "#ffd84d"
LEVELS = 40  # of grey: noise with more of them makes large files
GREYS, SIGNED = colormaps["gray"].resampled(LEVELS), colormaps["RdBu_r"].resampled(25)

Floats = np.ndarray[Any, np.dtype[np.float64]]


# --- the way of a joint ---


def prepared_joint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A phantom's scan, and the item of its left joint in a store."""
    phantom = make_phantom(PHANTOM, SCAN_SIZE, SPACING_MM, side="left")
    files = write_scan(folder / "scans", "a", phantom.image, phantom.label, phantom.affine)
    fov = FieldOfView((0.0, 0.0, 0.0), FOV_RADIUS_MM).to_item()
    item = {**files, "patient": "a", "joint": "left", "center_mm": list(phantom.joint_center_mm), "fov": fov}
    (folder / "scans" / "datalist.json").write_text(json.dumps({"training": [item]}), encoding="utf-8")
    prepare(folder / "scans", folder / "whole", PreparationSettings(SPACING_MM, whole_volume=True), num_workers=1)
    settings = PreparationSettings(SPACING_MM, ROI)
    done = prepare(folder / "scans", folder / "store", settings, num_workers=1, progress=False)
    (whole,) = (folder / "whole" / "images").iterdir()
    return whole, load_items(done.datalist)["training"][0]


def sample_of(item: dict[str, Any]) -> dict[str, Any]:
    """What training makes of the item; volumes in HU."""
    in_worker = pretraining_transforms(CROP, PATCH, SPACING_MM, prepared=True).set_random_state(CROP_SEED)
    on_device = device_transforms(PATCH, warp_prob=1.0, noise_prob=1.0)
    sample = in_worker(item)
    sample = on_device.set_random_state(sample["seed"])(sample)
    hu = {key: sample[key][0].numpy() * VOXELS.std_hu + VOXELS.mean_hu for key in ("image", "input")}
    return {**sample, **hu}


def draw_steps(folder: Path) -> Figure:
    """Six axial slices: from the scan to the network's input."""
    whole, item = prepared_joint(folder)
    sample = sample_of(item)
    figure = Figure(figsize=(10.4, 7.1), dpi=100, layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    _draw_scan(panels[0], whole, item, sample["crop"])
    _draw_roi(panels[1], item, sample["crop"])
    _draw_crop(panels[2], "3  the crop, mirrored: the loss' target", sample["image"])
    _draw_tokens(panels[3], sample)
    _draw_crop(panels[4], "5  the network's input: HU warp, noise", sample["input"])
    _draw_difference(figure, panels[5], sample)
    return figure


def _draw_scan(ax: Axes, path: Path, item: dict[str, Any], plan: CropPlan) -> None:
    """The scan with its joint, its region and the field of view, where the crop's middle is."""
    scan, roi = open_stored_volume(path), open_stored_volume(item["image"])
    k = round(moved(np.linalg.inv(scan.affine), _middle_mm(plan))[2])
    extent = _show(ax, scan.read()[:, :, k], scan.affine, "1  a scan of a left joint")
    first, last = (moved(roi.affine, corner)[:2] for corner in (np.full(3, -0.5), np.array(roi.shape) - 0.5))
    ax.add_patch(Rectangle(tuple(first), *(last - first), fill=False, edgecolor=SIDE_COLORS["left"], lw=1.6))
    _cross(ax, item)
    fov, angles = FieldOfView.of_item(item["fov"]), np.linspace(0, 2 * np.pi, 721)
    rim = fov.radius_mm * np.stack([np.cos(angles), np.sin(angles)]) + np.array(fov.center_mm[:2])[:, None]
    ax.plot(*rim, color=FOV_COLOR, ls="--", lw=1.4)
    ax.set(xlim=(extent[1], extent[0]), ylim=extent[2:])
    _say(ax, "field of view", (0.86, 0.965), FOV_COLOR)
    _say(ax, "region of 80 mm", (0.335, 0.035), SIDE_COLORS["left"])
    _letters(ax, "R", "L")


def _draw_roi(ax: Axes, item: dict[str, Any], plan: CropPlan) -> None:
    """The stored region, and where the crop meets the slice through the crop's middle."""
    roi = open_stored_volume(item["image"])
    k = round(moved(np.linalg.inv(roi.affine), _middle_mm(plan))[2])
    extent = _show(ax, roi.read()[:, :, k], roi.affine, "2  its region in the store, and a crop")
    i, j = np.meshgrid(np.arange(roi.shape[0]), np.arange(roi.shape[1]))
    index = moved(np.linalg.inv(plan.matrix), np.stack([i, j, np.full_like(i, k)], axis=-1))
    inside = (CROP / 2 - np.abs(index - (CROP - 1) / 2)).min(axis=-1)
    world = moved(roi.affine, np.stack([i, j, np.full_like(i, k)], axis=-1))
    ax.contour(world[..., 0], world[..., 1], inside, levels=[0], colors=CROP_COLOR, linewidths=1.8)
    _cross(ax, item)
    ax.set(xlim=(extent[1], extent[0]), ylim=extent[2:])
    _say(ax, "turned, scaled, shifted", (0.03, 0.035), CROP_COLOR, "left")
    _letters(ax, "R", "L")


def _draw_crop(ax: Axes, title: str, hu: Floats) -> None:
    """The middle slice of a crop."""
    _show(ax, hu[:, :, CROP // 2], np.eye(4), title)
    ax.set(xlim=(CROP - 0.5, -0.5))
    _letters(ax, "L", "R")


def _draw_tokens(ax: Axes, sample: dict[str, Any]) -> None:
    """The tokens of the middle slice: hidden ones are covered, those outside the field of view red."""
    _show(ax, sample["image"][:, :, CROP // 2], np.eye(4), "4  its tokens: visible, hidden, outside")
    grid = [CROP // PATCH] * 3
    valid, noise = (np.asarray(sample[key]).reshape(grid) for key in ("valid", "noise"))
    visible = valid & (noise <= np.quantile(noise[valid], 0.25))
    middle = (CROP // 2) // PATCH
    for i, j in np.ndindex(*grid[:2]):
        look = _token_look(valid[i, j, middle], visible[i, j, middle])
        ax.add_patch(Rectangle((i * PATCH - 0.5, j * PATCH - 0.5), PATCH, PATCH, **look))
    ax.set(xlim=(CROP - 0.5, -0.5))
    _letters(ax, "L", "R")


def _token_look(is_valid: bool, is_visible: bool) -> dict[str, Any]:
    """How a token is drawn."""
    edge = {"edgecolor": "#ffffff70", "lw": 0.6}
    if not is_valid:
        return {"facecolor": "#c62f35a0", **edge}
    return {"facecolor": "none" if is_visible else "#46566c", **edge}


def _draw_difference(figure: Figure, ax: Axes, sample: dict[str, Any]) -> None:
    """What the network's input has more than its target."""
    difference = (sample["input"] - sample["image"])[:, :, CROP // 2]
    picture = ax.imshow(difference.T, cmap=SIGNED, vmin=-150, vmax=150, origin="lower", interpolation="none")
    ax.set(xlim=(CROP - 0.5, -0.5), xticks=[], yticks=[])
    ax.set_title("6  input minus target", fontsize=11)
    bar = figure.colorbar(picture, ax=ax, shrink=0.72, pad=0.02, ticks=[-150, 0, 150])
    bar.ax.tick_params(labelsize=9)
    bar.set_label("HU", fontsize=9, labelpad=-8)


def _middle_mm(plan: CropPlan) -> Floats:
    """The middle of a crop in the world."""
    return moved(plan.crop_affine, (np.array(plan.size) - 1) / 2)


def _show(ax: Axes, values: Floats, affine: Floats, title: str) -> tuple[float, float, float, float]:
    """A slice in the bone window, the patient's right on the left, in mm of the world (or in voxels)."""
    first, last = (moved(affine, (*corner, 0)) for corner in ((-0.5, -0.5), np.array(values.shape) - 0.5))
    extent = float(first[0]), float(last[0]), float(first[1]), float(last[1])
    low, high = WINDOW_HU
    ax.imshow(values.T, cmap=GREYS, vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
    ax.set(xlim=(extent[1], extent[0]), ylim=extent[2:], xticks=[], yticks=[])
    ax.set_title(title, fontsize=11)
    return extent


def _cross(ax: Axes, item: dict[str, Any]) -> None:
    """The joint."""
    ax.plot(*item["center_mm"][:2], "+", color=SIDE_COLORS["left"], ms=14, mew=2.2)


def _letters(ax: Axes, left: str, right: str) -> None:
    """Sides of the patient at the edges."""
    for x, ha, letter in ((0.015, "left", left), (0.985, "right", right)):
        _say(ax, letter, (x, 0.5), "white", ha, weight="bold")


def _say(ax: Axes, text: str, place: tuple[float, float], color: str, ha: str = "center", **look: Any) -> None:
    """A few words in a picture."""
    box = {"facecolor": "#00000090", "edgecolor": "none", "pad": 1.5}
    ax.text(*place, text, color=color, ha=ha, va="center", fontsize=9.5, transform=ax.transAxes, bbox=box, **look)


# --- grey values ---


def draw_histograms() -> Figure:
    """One scan three times: in HU, in the grey values of a cone-beam scanner, and scaled by percentiles."""
    hu = make_phantom(PHANTOM, 128, 0.8, side="left").image
    grey = np.rint(0.55 * hu + 1200.0)
    reason = why_not_hu(grey)
    if reason is None or why_not_hu(hu) is not None:
        raise RuntimeError("The grey values of the figure should be refused, and the HU not.")
    figure = Figure(figsize=(10.4, 2.7), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    _draw_histogram(panels[0], hu, "HU: accepted")
    _draw_histogram(panels[1], grey, "cone-beam grey values: refused")
    _draw_histogram(panels[2], fit_intensity(grey, "percentile").apply(grey), "the same with --intensity percentile")
    panels[0].set_ylabel("voxels (log)")
    return figure


def _draw_histogram(ax: Axes, values: Floats, title: str) -> None:
    """Counts, the training window, and where tissues belong."""
    counts, edges = np.histogram(values, bins=100, range=(-1200, 2600))
    ax.axvspan(VOXELS.min_hu, VOXELS.max_hu, color="#3182ce", alpha=0.13, lw=0)
    ax.fill_between(edges[:-1], np.maximum(counts, 1), 1, step="post", color="#7b8794")
    ax.set(yscale="log", xlim=(-1200, 2600), ylim=(1, 3e6), xlabel="value as training would take it, HU")
    ax.set_title(title, fontsize=11)
    for hu, name in ((AIR_HU, "air"), (SOFT_TISSUE_HU, "soft tissue"), (DENSE_BONE_HU, "dense bone")):
        ax.axvline(hu, color="#b7791f", lw=1.1, ls="--")
        ax.text(hu + 25, 2e6, name, fontsize=8.5, color="#8a5a12", va="top")


# --- the report ---


def write_thumbnail(label_map: str, folder: Path) -> None:
    """The thumbnail that the report has of a semi-synthetic scan with both joints."""
    scans = write_semi_synthetic(label_map, folder / "jaws").parent
    prepare(scans, folder / "jaw_store", PreparationSettings(SPACING_MM, ROI), num_workers=1, progress=False)
    (picture,) = (folder / "jaw_store" / "thumbnails").iterdir()
    shutil.copyfile(picture, HERE / "preparation_thumbnail.png")


def _save(figure: Figure, name: str) -> None:
    """Write a picture with a palette of greys and of its own colours: a third of the bytes."""
    written = BytesIO()
    figure.savefig(written, format="png")
    image = Image.open(written).convert("RGB")
    pixels = np.asarray(image)
    colored = Image.fromarray(pixels[np.ptp(pixels, axis=-1) > 6][None])
    colors = colored.quantize(256 - LEVELS, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.rint(np.linspace(0, 255, LEVELS)).astype(int).repeat(3).tolist() + colors)
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def main(arguments: Sequence[str]) -> None:
    """Draw everything."""
    with TemporaryDirectory() as folder:
        _save(draw_steps(Path(folder)), "preparation_steps.png")
        _save(draw_histograms(), "preparation_values.png")
        for label_map in arguments:
            write_thumbnail(label_map, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
