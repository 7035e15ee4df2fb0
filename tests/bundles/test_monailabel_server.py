"""Label, train and label again through a real MONAI Label server, on the loopback and without any other network."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.data import write_phantoms
from tests.bundles.served_bundle import BUNDLE, small_bundle

pytest.importorskip(
    "monailabel", reason="MONAI Label is not installed: see docs/how-to/monai-label.md, it needs its own environment"
)
requests = pytest.importorskip("requests")

pytestmark = [pytest.mark.bundle, pytest.mark.timeout(1800)]

NAME = BUNDLE.name
# what connects elsewhere is refused and written down; every process of the server loads this first
GUARD = """
import os, socket

LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", None)
connect, look_up = socket.socket.connect, socket.getaddrinfo


def refuse(target):
    with open(os.environ["OUTSIDE"], "a", encoding="utf-8") as file:
        file.write(f"{target}\\n")
    raise OSError(f"no network in this test: {target}")


def guarded_connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:
        refuse(address)
    return connect(self, address)


def guarded_look_up(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOCAL and name != socket.gethostname():
        refuse(name)
    return look_up(host, *args, **kwargs)


socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_look_up
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Server:
    """A server on a free port, and what was said to it."""

    def __init__(self, folder):
        self.folder, self.said = folder, []
        self.port = free_port()
        self.log = folder / "server.log"
        self.outside = folder / "outside.txt"
        self.outside.touch()
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
        (folder / "tmp").mkdir()
        self.studies = folder / "studies"
        self.process = None

    @property
    def model(self):
        return self.folder / "app" / "monaibundle" / "model" / NAME

    def environment(self):
        # the server starts `python` and `torchrun` by name
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.folder / 'guard'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep),
            "OUTSIDE": str(self.outside),
            "TMPDIR": str(self.folder / "tmp"),
            "MONAI_LABEL_SESSION_PATH": str(self.folder / "sessions"),
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        }

    def command(self, *arguments):
        return [sys.executable, "-m", "monailabel.main", *arguments]

    def start(self):
        download = self.command("apps", "--download", "--name", "monaibundle", "--output", str(self.folder / "app"))
        subprocess.run(download, env=self.environment(), check=True, capture_output=True, timeout=300)
        small_bundle(self.model)
        options = {"models": NAME, "zoo_source": "local", "sam2": "false"}
        options |= {"epistemic_model": NAME, "epistemic_simulation_size": "2"}
        conf = [part for key, value in options.items() for part in ("--conf", key, value)]
        place = ["--app", str(self.folder / "app" / "monaibundle"), "--studies", str(self.studies)]
        command = self.command("start_server", *place, "--host", "127.0.0.1", "--port", str(self.port), *conf)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        self.until(lambda: self.answers(), 300)

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def answers(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/info/", timeout=60).ok
        except requests.ConnectionError:
            return False

    def until(self, is_so, timeout):
        end = time.monotonic() + timeout
        while not is_so():
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def ask(self, method, path, **arguments):
        began = time.monotonic()
        response = requests.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=300, **arguments)
        body = arguments.get("json", arguments.get("data", ""))
        answer = response.text[:1500] if response.headers.get("content-type", "").startswith("application/json") else ""
        self.said.append(
            f"## {method} {path}\n\nbody `{json.dumps(body)}`, {response.status_code}, {len(response.content)} bytes, "
            f"{time.monotonic() - began:.1f} s\n\n```\n{answer}\n```\n"
        )
        assert response.ok, f"{path}: {response.status_code} {self.log.read_text()[-3000:]}"
        return response

    def wait_for(self, task):
        """Ask for a background task until it has ended."""
        state = {}

        def ended():
            state.update(requests.get(f"http://127.0.0.1:{self.port}/{task}/", timeout=60).json())
            return state["status"] not in ("SUBMITTED", "RUNNING")

        self.until(ended, 600)
        self.said.append(f"## {task} ended\n\n```\n{json.dumps(state, indent=1)[-3000:]}\n```\n")
        return state

    def infer(self, image, **params):
        response = self.ask(
            "POST",
            f"/infer/{NAME}?image={image}&output=image",
            data={"params": json.dumps({"device": "cpu", **params})},
        )
        path = self.folder / f"answer_{len(self.said)}.nii.gz"
        path.write_bytes(response.content)
        return path

    def put_label(self, image, path):
        segments = [{"name": "mandible", "idx": 1}, {"name": "skull", "idx": 2}]
        with path.open("rb") as file:
            self.ask(
                "PUT",
                f"/datastore/label?image={image}&tag=final",
                data={"params": json.dumps({"label_info": segments})},
                files={"label": file},
            )

    def slicers_options(self, section, **changes):
        """The options that 3D Slicer sends: all that the server offers, and of a list the first."""
        config = self.ask("GET", "/info/").json()[section][NAME]["config"]
        return {key: value[0] if isinstance(value, list) else value for key, value in config.items()} | changes


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """An annotator's morning, once."""
    server = Server(tmp_path_factory.mktemp("label"))
    datalist = write_phantoms(server.folder / "phantoms", count=5, size=[30, 28, 26], spacing_mm=1.6, oblique_deg=12)
    server.studies.mkdir()
    labels = {}
    for image in sorted(datalist.parent.glob("image_*.nii.gz")):
        shutil.copy(image, server.studies / image.name)
        labels[image.name.removesuffix(".nii.gz")] = image.with_name(image.name.replace("image_", "label_"))
    seen = {"server": server, "labels": labels}
    try:
        server.start()
        weights = server.model / "models" / "model.pt"
        seen["info"] = server.ask("GET", "/info/").json()
        seen["first"] = server.ask("POST", "/activelearning/first", json={}).json()
        first = seen["first"]["id"]
        seen["published"], seen["before"] = sha256(weights), server.infer(first)
        seen["options"] = server.infer(first, sw_overlap=0.6, sw_batch_size=2, keep_largest_component=True)
        center_mm = json.loads(datalist.read_text(encoding="utf-8"))["training"][0]["center_mm"]
        for joint in ("left", "right"):
            seen[joint] = server.infer(first, center_mm=center_mm, joint=joint)
        for image in list(labels)[:3]:
            server.put_label(image, labels[image])
        seen["slicers_options"] = server.slicers_options("trainers", max_epochs=4, device="cpu")
        server.ask("POST", f"/train/{NAME}", json=seen["slicers_options"])
        seen["training"] = server.wait_for("train")
        seen["trained"], seen["after"] = sha256(weights), server.infer(first)
        server.put_label(list(labels)[3], labels[list(labels)[3]])
        server.ask("POST", f"/train/{NAME}", json={"max_epochs": 1, "device": "cpu", "multi_gpu": False})
        seen["second_training"] = server.wait_for("train")
        seen["trained_again"] = sha256(weights)
        server.ask("POST", f"/scoring/{NAME}", json={"max_workers": 1, "device": "cpu"})
        seen["scoring"] = server.wait_for("scoring")
        seen["datastore"] = server.ask("GET", "/datastore/?output=all").json()
        seen["next"] = server.ask("POST", "/activelearning/first", json={}).json()
    finally:
        server.stop()
        (server.folder / "transcript.md").write_text("\n".join(server.said), encoding="utf-8")
    seen["log"] = server.log.read_text(encoding="utf-8")
    return seen


def volume(path):
    return nib.load(path)


def test_the_server_knows_the_model(story):
    model = story["info"]["models"][NAME]
    assert model["type"] == "segmentation"
    assert model["labels"] == {"mandible": 1, "skull": 2}
    assert model["dimension"] == 3
    assert {"sw_overlap", "sw_batch_size", "keep_largest_component"} <= set(model["config"])
    assert story["info"]["labels"] == ["mandible", "skull"]
    assert NAME in story["info"]["trainers"]
    assert NAME in story["info"]["scoring"]


@pytest.mark.parametrize("answer", ["before", "options", "left", "after"])
def test_an_answer_has_the_geometry_of_the_study(story, answer):
    study = volume(story["server"].studies / f"{story['first']['id']}.nii.gz")
    found = volume(story[answer])
    assert found.shape == study.shape
    # ITK writes the directions with single precision
    assert np.allclose(found.affine, study.affine, atol=1e-3)
    values = np.asarray(found.dataobj)
    assert set(np.unique(values)) <= {0, 1, 2}
    assert values.dtype.kind in "ui"


def test_a_request_can_say_which_joint(story):
    left, right, unsaid = (np.asarray(volume(story[name]).dataobj) for name in ("left", "right", "before"))
    # a left joint goes through the network mirrored
    assert not np.array_equal(left, right)
    assert np.array_equal(right, unsaid)


def test_training_as_3d_slicer_asks_for_it_replaces_the_weights(story):
    # an empty name of the run, which MONAI takes for all entries
    assert story["slicers_options"]["run_id"] == ""
    assert story["training"]["status"] == "DONE"
    assert story["published"] != story["trained"] != story["trained_again"]
    before, after = (np.asarray(volume(story[name]).dataobj) for name in ("before", "after"))
    assert not np.array_equal(before, after)


def test_training_teaches(story):
    label = np.asarray(volume(story["labels"][story["first"]["id"]]).dataobj)

    def dice(name):
        found = np.asarray(volume(story[name]).dataobj) > 0
        return 2 * np.count_nonzero(found & (label > 0)) / (np.count_nonzero(found) + np.count_nonzero(label))

    assert dice("after") > dice("before")


def test_earlier_weights_are_kept(story):
    models = story["server"].model / "models"
    assert {path.name for path in models.iterdir()} == {"model.pt", "model_before_1.pt", "model_before_2.pt"}
    assert sha256(models / "model_before_1.pt") == story["published"]
    assert sha256(models / "model_before_2.pt") == story["trained"]


def test_the_second_training_has_the_new_label_and_keeps_the_first_ones_files(story):
    assert story["second_training"]["status"] == "DONE"
    run = story["server"].model / "output" / "train"
    counts = [
        json.loads((folder / "run_report.json").read_text(encoding="utf-8"))["data"]["counts"]
        for folder in (run / "previous" / "1", run)
    ]
    assert counts == [{"training": 2, "validation": 1}, {"training": 3, "validation": 1}]


def test_nothing_is_written_into_the_working_directory_or_as_phantoms(story):
    server = story["server"]
    assert not (server.model / "data").exists()
    expected = {"server.log", "outside.txt", "guard", "tmp", "studies", "app", "sessions", "phantoms", "transcript.md"}
    assert {path.name for path in server.folder.iterdir() if not path.name.startswith("answer_")} <= expected


def test_unlabelled_studies_are_scored(story):
    assert story["scoring"]["status"] == "DONE"
    objects = story["datastore"]["objects"]
    scored = {name for name, study in objects.items() if "epistemic_entropy" in study["image"]["info"]}
    assert scored == set(list(story["labels"])[4:])
    assert all(np.isfinite(objects[name]["image"]["info"]["epistemic_entropy"]) for name in scored)


def test_the_next_study_is_one_without_a_label(story):
    assert story["first"]["id"] == next(iter(story["labels"]))
    assert story["next"]["id"] == list(story["labels"])[4]


def test_the_log_has_no_errors(story):
    faults = [line for line in story["log"].splitlines() if "Traceback" in line or "ERROR" in line or "Error:" in line]
    assert faults == []
    assert "keys don't match" not in story["log"]


def test_nothing_was_looked_for_elsewhere(story):
    assert story["server"].outside.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("target", ["192.0.2.1", "example.org"])
def test_what_connects_elsewhere_would_have_been_seen(story, target, tmp_path):
    environment = story["server"].environment() | {"OUTSIDE": str(tmp_path / "outside.txt")}
    program = f"import socket; socket.create_connection(({target!r}, 80), timeout=5)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert target in (tmp_path / "outside.txt").read_text(encoding="utf-8")
