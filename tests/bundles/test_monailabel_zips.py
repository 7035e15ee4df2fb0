"""A release, unzipped into the stock MONAI Label app: both bundles that segment answer, without any other network."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data import write_phantoms
from bertswin_ext.data.phantoms.bodies import make_body
from bertswin_ext.data.phantoms.heads import make_head
from bertswin_ext.data.phantoms.nifti_files import whole_hu, write_nifti
from bertswin_ext.release.build import build_release
from bertswin_ext.release.commit import Commit
from tests.bundles.conftest import REPOSITORY
from tests.unit.release.small_repository import commit, git, write_repository

pytest.importorskip(
    "monailabel", reason="MONAI Label is not installed: see docs/how-to/monai-label.md, it needs its own environment"
)
requests = pytest.importorskip("requests")

from tests.bundles.test_monailabel_server import Server  # noqa: E402 - it is skipped without MONAI Label, too

pytestmark = [pytest.mark.bundle, pytest.mark.timeout(1800)]

STAGES = ("tmj_segmentation", "inference")
SEGMENTER, PROGRAM = (f"bertswin_{stage}" for stage in STAGES)
QUICK = {"sw_overlap": 0.25}


def build_zips(folder):
    """The archives of the two bundles as they lie here, with what is not committed yet and without what is ignored."""
    repository = write_repository(folder / "repository")
    for stage in STAGES:
        shutil.rmtree(repository / "bundles" / stage)
    listed = git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "bundles")
    for name in filter(None, listed.split("\0")):
        if Path(name).parts[1] in STAGES and (REPOSITORY / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, repository / name)
    commit(repository)
    files = build_release(Commit.head(repository), folder / "dist", STAGES)
    return [file for file in files if file.suffix == ".zip"]


def files_below(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class AppServer(Server):
    """The stock app with unzipped bundles in its folder of models."""

    @property
    def models(self):
        return self.folder / "app" / "monaibundle" / "model"

    def start(self):
        app = self.folder / "app"
        download = self.command("apps", "--download", "--name", "monaibundle", "--output", str(app))
        subprocess.run(download, env=self.environment(), check=True, capture_output=True, timeout=300)
        self.models.mkdir(exist_ok=True)
        for archive in build_zips(self.folder):
            with zipfile.ZipFile(archive) as file:
                file.extractall(self.models)
        options = {"models": f"{SEGMENTER},{PROGRAM}", "zoo_source": "local", "sam2": "false"}
        conf = [part for key, value in options.items() for part in ("--conf", key, value)]
        place = ["--app", str(app / "monaibundle"), "--studies", str(self.studies)]
        command = self.command("start_server", *place, "--host", "127.0.0.1", "--port", str(self.port), *conf)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        self.until(self.answers, 300)

    def infer(self, model, image, **params):
        asked = {"params": json.dumps({"device": "cpu", **QUICK, **params})}
        response = self.ask("POST", f"/infer/{model}?image={image}&output=image", data=asked)
        path = self.folder / f"answer_{len(self.said)}.nii.gz"
        path.write_bytes(response.content)
        return nib.load(path)

    def refuse(self, model, image):
        """Status of a request that cannot be fulfilled."""
        url = f"http://127.0.0.1:{self.port}/infer/{model}?image={image}&output=image"
        return requests.post(url, data={"params": json.dumps({"device": "cpu"})}, timeout=300).status_code


def write_story(server):
    """A joint, a head and a body without either as studies; the joint's label, and where joints are."""
    datalist = write_phantoms(
        server.folder / "phantoms", count=1, size=[80, 72, 76], spacing_mm=[0.6, 0.7, 0.65], seed=1000, oblique_deg=12
    )
    server.studies.mkdir()
    item = json.loads(datalist.read_text(encoding="utf-8"))["training"][0]
    shutil.copy(datalist.parent / item["image"], server.studies / "joint.nii.gz")
    head, body = make_head(seed=0, spacing_mm=2.0), make_body(seed=0, spacing_mm=4.0)
    for name, made in (("head", head), ("body", body)):
        write_nifti(server.studies / f"{name}.nii.gz", whole_hu(made.image), made.affine)
    return {"item": item, "label": nib.load(datalist.parent / item["label"]), "places": head.joints}


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """What a server of the two bundles says."""
    server = AppServer(tmp_path_factory.mktemp("label"))
    seen = {"server": server, **write_story(server)}
    place = {key: seen["item"][key] for key in ("joint", "center_mm")}
    left = [{"joint": "left", "center_mm": seen["places"]["left"]}]
    try:
        server.start()
        seen["unzipped"] = files_below(server.models)
        seen["info"] = server.ask("GET", "/info/").json()
        seen["segmenter"] = server.infer(SEGMENTER, "joint", **place)
        seen["program"] = server.infer(PROGRAM, "joint", **place)
        seen["segmenter again"] = server.infer(SEGMENTER, "joint", **place)
        seen["left of head"] = server.infer(PROGRAM, "head", joints=left)
        seen["head"] = server.infer(PROGRAM, "head")
        seen["log"] = server.log.read_text(encoding="utf-8")
        seen["refused"] = server.refuse(PROGRAM, "body")
    finally:
        server.stop()
        (server.folder / "transcript.md").write_text("\n".join(server.said), encoding="utf-8")
    seen["whole log"] = server.log.read_text(encoding="utf-8")
    return seen


def values(found):
    return np.asarray(found.dataobj)


def near(found, center_mm, label, within_mm=15.0):
    """Whether a label lies by a place."""
    index = np.argwhere(values(found) == label)
    world = nib.affines.apply_affine(found.affine, index)
    return bool((np.linalg.norm(world - np.array(center_mm), axis=1) < within_mm).any())


@pytest.mark.parametrize("name", [SEGMENTER, PROGRAM])
def test_the_server_knows_both_models(story, name):
    model = story["info"]["models"][name]
    assert model["type"] == "segmentation"
    assert model["labels"] == {"mandible": 1, "skull": 2}
    assert model["dimension"] == 3
    assert model["version"]
    assert {"sw_overlap", "sw_batch_size", "keep_largest_component"} <= set(model["config"])
    assert story["info"]["labels"] == ["mandible", "skull"]


def test_one_is_trained_and_the_other_is_not(story):
    assert list(story["info"]["trainers"]) == [SEGMENTER]
    assert story["info"]["models"][SEGMENTER]["config"]["model_filename"] == ["model.pt"]
    # the program cannot be replaced by other weights
    assert story["info"]["models"][PROGRAM]["config"]["model_filename"] == []


@pytest.mark.parametrize(
    ("answer", "study"),
    [("segmenter", "joint"), ("program", "joint"), ("left of head", "head"), ("head", "head")],
)
def test_an_answer_has_the_geometry_of_the_study_and_both_classes(story, answer, study):
    found, scan = story[answer], nib.load(story["server"].studies / f"{study}.nii.gz")
    assert found.shape == scan.shape
    # ITK writes the directions with single precision
    assert np.allclose(found.affine, scan.affine, atol=1e-3)
    assert values(found).dtype.kind in "ui"
    assert set(np.unique(values(found))) == {0, 1, 2}


@pytest.mark.parametrize("answer", ["segmenter", "program"])
@pytest.mark.parametrize("label", [1, 2])
def test_labels_lie_where_the_bones_are(story, answer, label):
    found, truth = values(story[answer]) == label, values(story["label"]) == label
    assert 2 * np.count_nonzero(found & truth) / (found.sum() + truth.sum()) > 0.8


def test_both_joints_of_a_head_are_found(story):
    for center_mm in story["places"].values():
        assert all(near(story["head"], center_mm, label) for label in (1, 2))
    assert not near(story["left of head"], story["places"]["right"], 1)
    assert near(story["left of head"], story["places"]["left"], 1)


def test_one_model_does_not_disturb_the_other(story):
    assert np.array_equal(values(story["segmenter"]), values(story["segmenter again"]))


def test_segmenting_leaves_the_bundles_as_they_were_unzipped(story):
    assert f"{PROGRAM}/models/model.ts" in story["unzipped"]
    assert f"{SEGMENTER}/models/model.pt" in story["unzipped"]
    assert files_below(story["server"].models) == story["unzipped"]


def test_the_log_has_no_errors(story):
    faults = [line for line in story["log"].splitlines() if "Traceback" in line or "ERROR" in line or "Error:" in line]
    assert faults == []
    assert "keys don't match" not in story["log"]


def test_a_study_without_a_joint_is_refused_and_the_log_says_why(story):
    assert story["refused"] == 500
    assert "body.nii.gz: no joint found" in story["whole log"].removeprefix(story["log"])


def test_nothing_was_looked_for_elsewhere(story):
    assert story["server"].outside.read_text(encoding="utf-8") == ""
