"""What MONAI Label reads of the bundle that has a program in place of weights, and does to a whole scan with it."""

import json
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, SaveImaged
from torch import nn

from bertswin_ext.data.phantoms.heads import make_head
from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti
from bertswin_ext.networks.joint_locator import JointLocator
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.programs.export import export_program
from bertswin_ext.programs.program import load_program
from bertswin_ext.runs.config_check import config_problems, known_ids
from tests.bundles.conftest import REPOSITORY
from tests.bundles.served_bundle import SIZES, Served, read, write_studies
from tests.bundles.test_monailabel_contract import bone, turned

BUNDLE = REPOSITORY / "bundles" / "inference"
MARKER = f"here_{BUNDLE.name}"
LABELS = ["background", "mandible", "skull"]
LOCATOR = Path("models", "locator", "model.pt")


class Dense(nn.Module):
    """Takes for skull what is dense: the phantom's bones."""

    def forward(self, x):
        return bone(x)


class ServedProgram(Served):
    """How MONAI Label applies inference.json when there is no models/model.pt."""

    def __init__(self, folder):
        self.folder, self.parser = folder, read(folder, "inference")
        self.parser.config["use_click"] = False
        # at the start of the server, nothing else is made
        self.options = self.entry("displayable_configs")

    def entry(self, name):
        try:
            return super().entry(name)
        finally:
            sys.modules.pop(MARKER, None)

    def __call__(self, image, network=None, **options):
        data = self.prepared(image, **options)
        inferer = self.entry("inferer")
        network = network or torch.jit.load(str(self.folder / "models" / "model.ts"), map_location="cpu")
        with torch.no_grad():
            data["pred"] = inferer(data["image"][None].to(torch.device("cpu")), network.eval())[0]
        return self.finished(data)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bundle with a small program and a small locator, both of random weights."""
    folder = tmp_path_factory.mktemp("app") / "model" / "bertswin_inference"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("data", "output", "models", "__pycache__"))
    torch.manual_seed(0)
    sizes = {key: value for key, value in SIZES.items() if key != "spacing_mm"}
    network = BertsWinSegmenter(**sizes, out_channels=len(LABELS))
    record = AdaptationRecord.of(network, spacing_mm=SIZES["spacing_mm"], labels=LABELS)
    export_program(network, record, folder / "models" / "model.ts")
    locator = JointLocator(channels=(4, 8))
    (folder / LOCATOR).parent.mkdir()
    save_network(locator, folder / LOCATOR, AdaptationRecord.of(locator, 4.0))
    return folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return write_studies(tmp_path_factory.mktemp("studies") / "all")


@pytest.fixture(scope="module")
def joint(studies):
    """What a request says of the first study's joint."""
    datalist = json.loads(Path(studies[0]["image"]).with_name("datalist.json").read_text(encoding="utf-8"))
    item = next(item for item in datalist["training"] if item["image"] == Path(studies[0]["image"]).name)
    return {"joint": item["joint"], "center_mm": item["center_mm"]}


@pytest.fixture(scope="module")
def dense():
    return torch.jit.trace(Dense(), torch.zeros(1, 1, *[SIZES["img_size"]] * 3))


def labelled(data):
    return np.asarray(data["pred"])[0]


def test_it_is_a_bundle_to_segment_with_not_to_train():
    names = {path.name for path in (BUNDLE / "configs").iterdir()}
    assert names >= {"inference.json", "metadata.json"}
    assert "train.json" not in names
    # with one, the program would be left alone; each *.pt here is offered as a model that replaces it
    assert list((BUNDLE / "models").glob("*.pt")) == []


def test_the_file_needs_no_other_one():
    text = (BUNDLE / "configs" / "inference.json").read_text(encoding="utf-8")
    assert not re.search(r'"%[^"]*\.json', text)
    assert "@_meta_" not in text
    assert config_problems(read(BUNDLE, "inference").config, known_ids(BUNDLE)) == []


def test_paths_begin_at_the_bundle_not_at_the_working_directory(small, studies, joint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    served = ServedProgram(small)
    for entry in ("program_path", "locator_path", "output_dir"):
        assert Path(served.entry(entry)).is_relative_to(small)
    before = sorted(small.rglob("*"))
    served(studies[0]["image"], **joint)
    # neither phantoms nor results
    assert [path for path in sorted(small.rglob("*")) if "__pycache__" not in path.parts] == before
    assert list(tmp_path.iterdir()) == []


def test_the_program_is_read_as_it_is_and_runs_on_any_device(small):
    path = small / "models" / "model.ts"
    program = torch.jit.load(str(path), map_location="cpu")
    x = torch.randn(2, 1, *[SIZES["img_size"]] * 3)
    with torch.no_grad():
        assert torch.equal(program(x), load_program(path)(x))
    # MONAI Label moves weights to a GPU, but not what the program's text puts on a device
    forwards = [part._c._get_method("forward") for part in program.modules() if part._c._has_method("forward")]
    constants = [node for forward in forwards for node in forward.graph.findAllNodes("prim::Constant", recurse=True)]
    assert [node for node in constants if str(node.output().type()) == "Device"] == []


def test_the_volume_is_loaded_by_a_loader_that_can_be_replaced(small):
    found = ServedProgram(small).entry("preprocessing")
    transforms = list(found.transforms) if isinstance(found, Compose) else found
    loaders = [transform for transform in transforms if isinstance(transform, LoadImaged)]
    assert len(loaders) == 1
    assert tuple(loaders[0].keys) == ("image",)


def test_nothing_is_written_but_by_the_server(small):
    found = ServedProgram(small).entry("postprocessing")
    transforms = list(found.transforms) if isinstance(found, Compose) else found
    assert [transform for transform in transforms if isinstance(transform, SaveImaged)] == []


@pytest.mark.parametrize("storage", ["as written", "other axes"])
def test_labels_come_back_where_the_bones_are(small, studies, joint, dense, tmp_path, storage):
    item = studies[0] if storage == "as written" else turned(studies[0], tmp_path)
    data = ServedProgram(small)(item["image"], dense, **joint)
    volume, bones = nib.load(item["image"]), np.asarray(nib.load(item["label"]).dataobj) > 0
    found = labelled(data) == 2
    # nothing is left to be resized, and the file is written with the label's own geometry
    assert data["pred"].shape == (1, *volume.shape)
    assert tuple(data["image"].meta["spatial_shape"]) == volume.shape
    assert np.allclose(data["pred"].affine, volume.affine, atol=1e-5)
    overlap = 2 * np.count_nonzero(found & bones) / (found.sum() + bones.sum())
    assert overlap > 0.8
    wrong = found[::-1, ::-1, ::-1]
    assert 2 * np.count_nonzero(wrong & bones) / (found.sum() + bones.sum()) < overlap - 0.2


def test_labels_are_whole_numbers(small, studies, joint):
    data = ServedProgram(small)(studies[0]["image"], **joint)
    assert data["pred"].dtype == torch.uint8
    assert set(np.unique(labelled(data))) <= {0, 1, 2}


def test_joints_can_be_named_in_two_ways_and_a_left_one_is_mirrored(small, studies, joint):
    served = ServedProgram(small)
    image, center_mm = studies[0]["image"], joint["center_mm"]
    left, right = (labelled(served(image, joint=side, center_mm=center_mm)) for side in ("left", "right"))
    assert not np.array_equal(left, right)
    assert np.array_equal(labelled(served(image, joints=[{"joint": "left", "center_mm": center_mm}])), left)
    assert np.array_equal(labelled(served(image, center_mm=center_mm)), right)


def test_a_request_knows_nothing_of_the_one_before(small, studies, joint):
    served = ServedProgram(small)
    served(studies[0]["image"], **joint)
    # these weights find no joint, and no place is left over
    with pytest.raises(ValueError, match="no joint found"):
        served(studies[0]["image"])


def test_a_place_outside_the_study_is_named(small, studies):
    with pytest.raises(ValueError, match=r"image_0000\.nii\.gz"):
        ServedProgram(small)(studies[0]["image"], joint="left", center_mm=[900, 0, 0])


def test_a_request_without_a_place_finds_both_joints_of_a_head(small, dense, tmp_path):
    if not (BUNDLE / LOCATOR).is_file():
        pytest.skip("the bundle has no locator: its weights come with a release or a training")
    folder = shutil.copytree(small, tmp_path / small.name)
    shutil.copy(BUNDLE / LOCATOR, folder / LOCATOR)
    head = make_head(seed=0, spacing_mm=4.0)
    write_nifti(tmp_path / "head.nii.gz", whole_hu(head.image), head.affine)
    found = labelled(ServedProgram(folder)(str(tmp_path / "head.nii.gz"), dense))
    assert found.shape == head.image.shape
    to_voxel = np.linalg.inv(head.affine)
    for center_mm in head.joints.values():
        i, j, k = np.rint((to_voxel @ [*center_mm, 1])[:3]).astype(int)
        assert np.any(found[i - 4 : i + 5, j - 4 : j + 5, k - 4 : k + 5] == 2)
    # dense, too, but far from both: what is above the joints' boxes
    assert np.any(head.image[..., -12:] > 400)
    assert not found[..., -12:].any()


def test_the_segments_have_the_programs_names():
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    inputs, outputs = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
    assert (next(iter(inputs)), next(iter(outputs))) == ("image", "pred")
    assert len(inputs["image"]["spatial_shape"]) == 3
    assert list(outputs["pred"]["channel_def"].values()) == LABELS
    path = BUNDLE / "models" / "model.ts"
    if not path.is_file():
        pytest.skip("the bundle has no program: it comes with a release or an export")
    assert list(load_program(path).record.labels) == LABELS


def test_no_module_and_no_name_is_taken_for_something_else():
    modules = {path.stem for path in BUNDLE.glob("*.py")} | {path.parent.name for path in BUNDLE.glob("*/__init__.py")}
    assert modules == {MARKER}
    # a name without a task is taken for one that segments; what follows `_v` would be a version
    words = ("deepedit", "deepgrow", "detection", "classification", "_v")
    assert not any(word in f"bertswin_{BUNDLE.name}" for word in words)


def test_annotators_are_offered_three_options_which_act(small, studies, joint):
    served = ServedProgram(small)
    assert {name: type(value) for name, value in served.options.items()} == {
        "sw_overlap": float,
        "sw_batch_size": int,
        "keep_largest_component": bool,
    }
    for keep_largest in (True, False):
        served.prepared(
            studies[0]["image"], sw_overlap=0.75, sw_batch_size=3, keep_largest_component=keep_largest, **joint
        )
        inferer = served.entry("inferer")
        assert inferer.inferer.overlap in (0.75, (0.75,) * 3)
        assert inferer.inferer.sw_batch_size == 3
        assert (inferer.clean is not None) is keep_largest
        # it arrives as text
        assert inferer.device == torch.device("cpu")
