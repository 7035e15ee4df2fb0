"""What a scan costs from file to label: our pipeline, and MONAI's `SwinUNETR` with the model zoo's sliding window.

    python benchmarks/inference.py [--edges 400,600] [--size demo|base] [--windows 4] [--rounds 1] [--device cpu|cuda]
        [--threads 1] [--memory_gb 16] [--out table.md]

Both get the same file, a cube of ``edge`` voxels of 0.3 mm as cone-beam scanners write it (gzip, 16 bits), and write a
label map in its geometry.

- Ours is `bundles/inference`: two joints, whose places are given, in boxes of 80 mm at the network's voxels, 0.8 mm for
  the demo and 0.2 mm for the paper's size, windows overlapping by half.
- SwinUNETR (feature size 48) works as in the zoo: the whole scan, at the scan's own voxels, windows of 96^3, four at a
  time, overlapping by half, then `Invertd`, argmax and `SaveImaged`.

How to read the table:

- Every turn is a process of its own. Peak memory is all that it has resident at the worst moment (`ru_maxrss`).
- The network is called on the first windows of a scan, once and then ``windows`` times; for others it returns zeros.
  "network" is what cutting and blending windows took, and the mean of those calls, without the first, for all windows.
  Weights are random.
- The other stages are what they are. "load" is reading, turning and checking; "write" is the label map.
- "whole" is the sum. Ratios are to SwinUNETR of the same round; medians, brackets hold the smallest and the largest.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import fire
import monai
import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import SwinUNETR
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImage,
    ScaleIntensityRanged,
    Spacingd,
)
from processes import in_own_process
from segmentation import GIGABYTE
from tables import spread, table

from bertswin_ext.data import VolumeReader
from bertswin_ext.deployment import JointsInferer, NoteJointsd
from bertswin_ext.inferers import sliding_window
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.transforms import CheckVolumed

YARDSTICK, OURS = "SwinUNETR", "ours"
SPACING_MM, HALF_DISTANCE_MM, REGION_MM, CLASSES = 0.3, 45.0, 80.0, 3
STAGES = ("load", "resample", "network", "invert", "write")
DEMO = {"img_size": 48, "patch_size": 8, "hidden_size": 96, "num_layers": 4, "num_heads": 4, "window_size": 3}
SIZES: dict[str, tuple[float, dict[str, Any]]] = {
    "demo": (0.8, {**DEMO, "stem_channels": 16, "decoder_channels": 8}),
    "base": (0.2, {"img_size": 224, "patch_size": 16}),
}


class Setting(NamedTuple):
    """On what, and how."""

    size: str
    device: str
    threads: int
    windows: int
    memory_gb: float


class Cost(NamedTuple):
    """Seconds of the stages, windows of the network, and bytes at the worst moment."""

    seconds: dict[str, float]
    num_windows: int
    memory: float


def run(
    edges: Sequence[int] | int = (400, 600),
    size: str = "demo",
    windows: int = 4,
    rounds: int = 1,
    device: str = "cpu",
    threads: int = 1,
    memory_gb: float = 16.0,
    out: str = "",
) -> None:
    """Measure and print the table.

    Args:
        edges: voxels per axis of the scans.
        size: "demo", or "base" for the paper's network.
        windows: windows that go through the networks.
        rounds: turns of every pipeline.
        device: "cpu" or "cuda".
        threads: of torch, on the CPU.
        memory_gb: what a process may have of its own.
        out: also write the table to this file.
    """
    setting = Setting(size, device, threads, windows, memory_gb)
    costs: dict[tuple[int, str], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for edge in [edges] if isinstance(edges, int) else edges:
            scan = write_scan(Path(folder), edge)
            for number in range(rounds):
                names = (OURS, YARDSTICK) if number % 2 else (YARDSTICK, OURS)
                for name in names:
                    print(f"round {number + 1} of {rounds}: {edge}^3, {name}", file=sys.stderr)
                    cost = in_own_process(measure, name, scan, setting)
                    costs.setdefault((edge, name), []).extend([] if cost is None else [cost])
    text = "\n\n".join([heading(setting), cost_table(costs)])
    print(text)
    if out:
        Path(out).write_text(text + "\n", encoding="utf-8")


def write_scan(folder: Path, edge: int) -> str:
    """A file of a scan: blobs of bone in tissue, with noise, so that it packs about as well as a real one."""
    generator = torch.Generator().manual_seed(edge)
    coarse = torch.randn(1, 1, *[edge // 20] * 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, [edge] * 3, mode="trilinear")[0, 0]
    hu = torch.where(smooth > 0.5, 1200.0, 40.0).add_(torch.randn(smooth.shape, generator=generator), alpha=40)
    affine = np.diag([-SPACING_MM, -SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = [SPACING_MM * edge / 2, SPACING_MM * edge / 2, -SPACING_MM * edge / 2]
    path = folder / f"scan_{edge}.nii.gz"
    nib.save(nib.Nifti1Image(hu.to(torch.int16).numpy(), affine), path)
    return str(path)


# --- one turn ---


class FewWindows(torch.nn.Module):
    """A network that works on its first windows and is counted."""

    def __init__(self, network: torch.nn.Module, device: str, limit: int) -> None:
        super().__init__()
        self.network, self.device, self.limit = network.to(device).eval(), device, limit
        self.seconds: list[float] = []
        self.num_windows = 0

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits; zeros after the first windows."""
        self.num_windows += len(windows)
        if len(self.seconds) > self.limit:
            return windows.new_zeros(len(windows), CLASSES, *windows.shape[2:])
        wait(self.device)
        start = time.perf_counter()
        logits: torch.Tensor = self.network(windows)
        wait(self.device)
        self.seconds.append(time.perf_counter() - start)
        self.called_on = len(windows)
        return logits

    def left_out(self) -> float:
        """Seconds that all windows would take, less those that were spent; the first call is not counted."""
        return statistics.mean(self.seconds[1:]) / self.called_on * self.num_windows - sum(self.seconds)


def measure(name: str, scan: str, setting: Setting) -> Cost:
    """One scan from file to label."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    limit = int(setting.memory_gb * GIGABYTE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        seconds, network = (ours if name == OURS else stock)(scan, Path(folder), setting)
    seconds["network"] += network.left_out()
    return Cost(seconds, network.num_windows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0)


def ours(scan: str, folder: Path, setting: Setting) -> tuple[dict[str, float], FewWindows]:
    """The bundle `inference`."""
    spacing_mm, arguments = SIZES[setting.size]
    network = FewWindows(BertsWinSegmenter(**arguments), setting.device, setting.windows)
    joints = [
        {"joint": side, "center_mm": [x, 0, 0]}
        for side, x in (("right", HALF_DISTANCE_MM), ("left", -HALF_DISTANCE_MM))
    ]
    preprocessing = Compose(
        [
            LoadImaged("image", reader=VolumeReader()),
            EnsureChannelFirstd("image"),
            CheckVolumed("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            NoteJointsd("image"),
        ]
    )
    item, load = timed(setting, lambda: preprocessing({"image": scan, "joints": joints}))
    inferer = JointsInferer(
        sliding_window(arguments["img_size"], arguments["patch_size"], overlap=0.5),
        spacing_mm,
        region_mm=REGION_MM,
        keep_largest=True,
        device=setting.device,
    )
    result = inferer.segment(item["image"][None], network)
    invert = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=True, device="cpu")
    item, back = timed(setting, lambda: invert({**item, "pred": result.label[0]}))
    _, write = timed(setting, lambda: save(item["pred"], folder))
    seconds = {**result.seconds, "load": load, "write": write}
    seconds["invert"] += back
    return seconds, network


def stock(scan: str, folder: Path, setting: Setting) -> tuple[dict[str, float], FewWindows]:
    """SwinUNETR as in the model zoo."""
    network = FewWindows(SwinUNETR(1, CLASSES, feature_size=48), setting.device, setting.windows)
    preprocessing = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(SPACING_MM,) * 3, mode="bilinear"),
            ScaleIntensityRanged("image", a_min=-175, a_max=250, b_min=0.0, b_max=1.0, clip=True),
        ]
    )
    inferer = SlidingWindowInferer(
        roi_size=(96, 96, 96), sw_batch_size=4, overlap=0.5, sw_device=setting.device, device="cpu"
    )
    postprocessing = Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True, device="cpu"),
            AsDiscreted("pred", argmax=True),
        ]
    )
    item, load = timed(setting, lambda: preprocessing({"image": scan}))
    logits, apply = timed(setting, lambda: inferer(item["image"][None], network))
    item, invert = timed(setting, lambda: postprocessing({**item, "pred": logits[0]}))
    _, write = timed(setting, lambda: save(item["pred"], folder))
    return {"load": load, "resample": 0.0, "network": apply, "invert": invert, "write": write}, network


def save(label: MetaTensor, folder: Path) -> None:
    """The label map as a file."""
    SaveImage(output_dtype=np.uint8, resample=False, print_log=False)(label, filename=folder / "label")


def timed(setting: Setting, call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    result = call()
    wait(setting.device)
    return result, time.perf_counter() - start


def wait(device: str) -> None:
    """Until the GPU has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


# --- the table ---


def cost_table(costs: dict[tuple[int, str], list[Cost]]) -> str:
    """Rows: scans and pipelines; columns: stages, all of them, memory, and two ratios to the yardstick."""
    rows = []
    for (edge, name), found in sorted(costs.items()):
        if not found:
            rows.append([f"{edge}^3", name, *["did not fit"] + [""] * (len(STAGES) + 4)])
            continue
        other = costs.get((edge, YARDSTICK), [])
        stages = [spread([cost.seconds[stage] for cost in found], "{:.1f}") for stage in STAGES]
        ratios = [_times_less(other, found, part) if name == OURS else "" for part in ("network", "whole")]
        memory = f"{max(cost.memory for cost in found) / GIGABYTE:.1f}"
        whole = spread([_seconds(cost, "whole") for cost in found], "{:.1f}")
        rows.append([f"{edge}^3", name, f"{found[0].num_windows}", *stages, whole, memory, *ratios])
    titles = ["scan", "pipeline", "windows", *(f"{stage}, s" for stage in STAGES), "whole, s", "peak memory, GB"]
    return table([*titles, "network: times faster", "whole: times faster"], rows)


def _seconds(cost: Cost, part: str) -> float:
    return sum(cost.seconds[stage] for stage in STAGES) if part == "whole" else cost.seconds[part]


def _times_less(other: Sequence[Cost], own: Sequence[Cost], part: str) -> str:
    if len(other) != len(own):
        return ""
    return spread([_seconds(a, part) / _seconds(b, part) for a, b in zip(other, own, strict=True)], "{:.1f}")


def heading(setting: Setting) -> str:
    """What was measured on what."""
    where = torch.cuda.get_device_name() if setting.device == "cuda" else f"CPU, {setting.threads} of its cores"
    spacing_mm, _ = SIZES[setting.size]
    return (
        f"## What a scan costs\n\ntorch {torch.__version__}, MONAI {monai.__version__}, {where}. Scans of {SPACING_MM} "
        f"mm; ours: the {setting.size} network at {spacing_mm} mm, two boxes of {REGION_MM:g} mm."
    )


if __name__ == "__main__":
    fire.Fire(run)
