"""The pages: their programs run, their numbers are those that the code gives."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bertswin_ext.data import PreparationSettings, load_datalist, load_landmarks, write_phantoms
from bertswin_ext.data.preparation.prepare import prepare
from bertswin_ext.optimizers import GradientConductor, smooth, zoned
from bertswin_ext.transforms import HU_ANCHORS, RandCTNoise
from bertswin_ext.voxels import VOXELS

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to" / "use-the-conductor.md"
CONCEPT = ROOT / "docs" / "concepts" / "conductor.md"
SCANS = ROOT / "docs" / "how-to" / "your-own-scans.md"
DATA = ROOT / "docs" / "concepts" / "data.md"
PROCESSES = "init_process_group"


def blocks(page):
    """The Python programs of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def title(block):
    """A line that tells one block from the others."""
    return next((line for line in block.splitlines() if not line.startswith(("import torch", "from bertswin"))), block)


def script(name):
    """A drawing script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "images" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def execute(block, namespace):
    """Run a block, or skip where the optional package it imports is missing."""
    if "torchjd" in block:
        pytest.importorskip("torchjd", reason="torchjd is not installed: pip install bertswin-ext[mtl]")
    exec(compile(block, "block", "exec"), namespace)


def shortened(block):
    """The same with a tenth of the micro-batches."""
    return block.replace("randn(400,", "randn(40,")


FIRST, *OTHERS = blocks(HOW_TO)
IN_ONE_PROCESS = [block for block in OTHERS if PROCESSES not in block]


@pytest.fixture
def namespace(tmp_path, monkeypatch):
    """What the first block of the page leaves behind."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    execute(shortened(FIRST), names)
    return names


def test_the_first_block_is_short_and_trains():
    loop = FIRST[FIRST.index("\nfor ") :].strip().splitlines()
    assert len(loop) <= 10
    assert len([line for line in FIRST.splitlines() if line.strip()]) <= 12
    assert "monai" not in FIRST
    names = {}
    torch.manual_seed(0)
    execute(FIRST, names)
    assert names["conductor"].num_steps == 100
    x = torch.randn(16, 8)
    trained = float(sum(names["losses_of"](x).values()))
    names["model"][0].reset_parameters()
    names["model"][2].reset_parameters()
    assert trained < 0.5 * float(sum(names["losses_of"](x).values()))


@pytest.mark.parametrize("block", IN_ONE_PROCESS, ids=title)
def test_every_other_block_goes_on_from_the_first(block, namespace, capsys):
    steps_before, conductor = namespace["conductor"].num_steps, namespace["conductor"]
    execute(shortened(block), namespace)
    promised = re.findall(r"print\(.*\)  # (\w+)$", block, flags=re.MULTILINE)
    printed = capsys.readouterr().out.split()
    if promised:
        assert printed == promised
    if "for x in" in block:
        done = namespace["conductor"].num_steps - (steps_before if namespace["conductor"] is conductor else 0)
        assert done > 0
    assert namespace["conductor"].num_skipped == 0
    assert all(parameter.isfinite().all() for parameter in namespace["model"].parameters())


@pytest.mark.dist
def test_the_block_for_several_processes(tmp_path):
    (block,) = [block for block in OTHERS if PROCESSES in block]
    end = "dist.destroy_process_group()"
    check = "torch.save(model.state_dict(), f'rank{dist.get_rank()}.pt')\n"
    (tmp_path / "train.py").write_text(block.replace(end, check + end), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": str(Path(sys.executable).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_program_of_the_readme():
    (block,) = [block for block in blocks(ROOT / "README.md") if "GradientConductor" in block]
    model = torch.nn.Linear(3, 1)

    def losses_of(model, batch):
        output = model(batch)
        return {"reconstruction": (output - 1).square().mean(), "segmentation": output.abs().mean()}

    names = {"model": model, "loader": torch.ones(8, 4, 3), "losses_of": losses_of}
    execute(block, names)
    assert names["conductor"].num_steps == 2


def numbers(text):
    return [float(number) for number in re.findall(r"[\d.]*\d", text)]


@pytest.mark.parametrize("method", ["plain sum", "smooth", "zoned"])
def test_the_table_of_the_toy_is_what_the_conductor_does(method):
    paths = script("conductor_paths")
    resolver = paths.plain_sum if method == "plain sum" else method
    row = paths.table_row(method, [paths.follow(resolver, start) for start in paths.STARTS])
    (stated,) = re.findall(rf"^\| {method} \| .* / .*$", CONCEPT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # at the end the point circles
    assert numbers(stated) == pytest.approx(numbers(row), abs=0.05)


@pytest.mark.parametrize(("resolver", "of_two", "of_three"), [(smooth, 12, 35), (zoned, 22, 47)])
def test_how_often_a_result_points_against_a_loss(resolver, of_two, of_three):
    opposed = script("conductor_paths").opposed
    assert [round(100 * opposed(resolver, k)) for k in (2, 3)] == [of_two, of_three]
    rows = [
        line
        for line in CONCEPT.read_text(encoding="utf-8").splitlines()
        if line.startswith(("| two losses |", "| three losses |"))
    ]
    column = 2 if resolver is smooth else 3
    assert [numbers(row.split("|")[column + 1])[0] for row in rows] == [of_two, of_three]


def test_the_drawn_shares_are_those_of_the_formula():
    shares = script("conductor_decisions").shares
    for cosine in (-0.05, -0.3, -0.49):
        angle = np.pi / 2 * (1 - (cosine + 0.5) / 0.5)
        assert shares(smooth, cosine) == pytest.approx([np.sin(angle)] * 2)
    angle = np.pi / 2 * (1 + ((-0.65 + 0.5) / -0.3) ** 2)
    assert shares(smooth, -0.65) == pytest.approx([np.sin(angle), 1])
    assert shares(smooth, -0.9) == pytest.approx([0, 1], abs=1e-12)
    assert shares(zoned, -0.3) == pytest.approx([1, 1])
    assert shares(zoned, -0.65) == pytest.approx([0, 1])
    assert shares(zoned, 0.3) == shares(smooth, 0.3) == (0, 0)


@pytest.mark.parametrize("resolver", [smooth, zoned])
@pytest.mark.parametrize("cosine", [-0.99, -0.81, -0.79, -0.6, -0.51])
@pytest.mark.parametrize("length", [0.01, 0.3, 1.0, 30.0])
def test_the_winner_of_a_serious_conflict_falls(resolver, cosine, length):
    gramian = torch.tensor([[1, cosine * length], [cosine * length, length**2]], dtype=torch.float64)
    weights = resolver(gramian, arbitrate=lambda *_: 0)
    assert (gramian @ weights)[0] > 0


@pytest.mark.parametrize(
    ("num_losses", "options", "floats"),
    [
        (1, {}, 1),
        (3, {}, 6),
        (3, {"previous_dtype": torch.bfloat16}, 4.5),
        (3, {"resolver": lambda gramian: torch.ones(3)}, 3),
        (3, {"dtype": torch.bfloat16}, 3),
    ],
    ids=["one", "three", "previous", "own", "bfloat16"],
)
def test_memory_of_the_rows(num_losses, options, floats):
    model = torch.nn.Linear(1024, 1024)
    conductor = GradientConductor(model, {str(k): 1.0 for k in range(num_losses)}, **options)
    kept = conductor.bank.rows.nbytes + conductor.bank._spare.nbytes
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert kept / size == pytest.approx(floats, rel=0.02)


def test_numbers_that_follow_from_others():
    text = CONCEPT.read_text(encoding="utf-8")
    assert round(2 * 3 * 4 * 90.8e6 / 1e9, 2) == 2.18
    assert round(1.5 * 3 * 4 * 90.8e6 / 1e9, 2) == 1.63
    assert "2.18 GB" in text
    assert "1.63 GB" in text
    assert round(1.5e-5 * 10 * 9.08e7**0.5, 1) == 1.4
    assert "= 1.4." in text
    assert round(0.95**60, 2) == 0.05


def test_the_numbers_about_bfloat16_are_those_of_the_reference_file():
    reference = json.loads((ROOT / "tests/golden/data/gcond_2task_smooth_lion.json").read_text(encoding="utf-8"))
    change = np.sort([value for case in reference["cases"].values() for value in case["bf16_vs_f32_rel"]])
    assert len(change) == 48
    assert (change[-2:] > 1.9).all()
    assert [round(100 * change[0], 2), round(100 * change[-3], 1)] == [0.02, 0.7]
    assert round(100 * np.median(change), 2) == 0.25
    assert "0.02 to 0.7 % (median 0.25 %); 200 % in two of 48 steps" in CONCEPT.read_text(encoding="utf-8")


@pytest.fixture
def small_store(tmp_path, monkeypatch):
    """A store in the recipe's voxels, of one phantom, which is too small to have air in it."""
    monkeypatch.chdir(tmp_path)
    raw = write_phantoms("raw", count=1, size=64, spacing_mm=0.2)
    return prepare(raw, "store", PreparationSettings(roi_size=60, intensity="hu"), num_workers=1, progress=False)


def test_the_program_about_one_sample(small_store):
    (block,) = blocks(DATA)
    sizes = {"224": "32", "16": "8", "14^3 = 2744": "4^3"}
    for size, smaller in sizes.items():
        block = block.replace(size, smaller)
    names = {}
    execute(block, names)
    assert names["box"]["image"].dtype == torch.int16
    sample = names["sample"]
    assert sample["image"].shape == sample["input"].shape == (1, 32, 32, 32)
    assert 0 < sample["valid"].sum() <= 4**3


def test_the_example_datalist_is_one(tmp_path):
    (text,) = re.findall(r"^```json\n(.*?)^```", SCANS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for item in json.loads(text)["training"]:
        for path in (tmp_path / item[key] for key in ("image", "label") if key in item):
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "datalist.json").write_text(text, encoding="utf-8")
    datalist = load_datalist(tmp_path / "datalist.json", fold=1)
    assert [(item["patient"], item["joint"]) for item in datalist.validation] == [("0002", "right")]
    assert datalist.training[0]["fov"]["radius_mm"] == 88


def test_the_example_table_of_landmarks_is_one(tmp_path):
    (text,) = re.findall(
        r"^```\n(scan,joint.*?)^```", SCANS.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    (tmp_path / "joints.csv").write_text(text, encoding="utf-8")
    landmarks = load_landmarks(tmp_path / "joints.csv")
    joints = landmarks.of(tmp_path / "scans" / "patient_01" / "scan.nii.gz", "patient_01")
    assert [joint.joint for joint in joints] == ["left", "right"]
    assert landmarks.of(tmp_path / "scans" / "patient_02" / "dicom", "patient_02")[0].center_mm == (-51.3, 12.5, -10.0)
    assert landmarks.unused() == []


def test_the_numbers_about_the_data_path():
    text, scans = (" ".join(page.read_text(encoding="utf-8").split()) for page in (DATA, SCANS))
    moving = {hu: shift for hu, shift in HU_ANCHORS.items() if shift}
    assert list(moving) == [-80, 15, 45, 90, 1000]
    assert list(moving.values()) == [25, 10, 8, 6, 20]
    assert "-80 HU (fat), 15, 45, 90 (fluid to muscle) and 1000 (bone) move by up to 25, 10, 8, 6 and 20 HU" in text
    noise = RandCTNoise()
    deviations = [
        round(noise.unit_hu * np.exp(noise.density_per_hu * hu) / dose**0.5)
        for hu in (0, 1000)
        for dose in noise.dose_range[::-1]
    ]
    assert "{} to {} HU in water, {} to {} at 1000 HU".format(*deviations) in text
    assert f"{noise.electronic_hu:.1f} HU of white electronic noise" in text
    joint_bytes = 400**3 * 2
    assert joint_bytes == 128e6
    assert round(200 * joint_bytes / 1e9) == 26
    assert round(200 * joint_bytes * 1.5 / 1e9) == 38
    assert "take 26 GB, with labels 38 GB" in scans
    assert f"{VOXELS.min_hu:g} to {VOXELS.max_hu:g}, is in HU" in scans


def test_the_grey_values_of_the_picture_are_refused_where_it_says_so():
    titles = [ax.get_title() for ax in script("preparation").draw_histograms().axes]  # raises if they are not
    assert [title.rpartition(": ")[2] for title in titles[:2]] == ["accepted", "refused"]
