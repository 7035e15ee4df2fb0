"""Pre-training on two nodes, which are two torchruns here, and with everything dealt out to two processes."""

import csv
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests import warm
from tests.bundles.conftest import command, environment, run
from tests.bundles.test_lint import merged
from tests.bundles.test_pretrain_runs import assert_same
from tests.distributed.test_multi_gpu import free_port, launch, weights

pytestmark = [pytest.mark.bundle, pytest.mark.dist]

SHORT = {"epochs": 1, "steps_per_epoch": 3, "batch_size": 1}
SHARDED = ("multi_gpu_train", "sharded")


def start_nodes(folder, *overlays, **overrides):
    """Two torchruns of one process each that meet at a free port, each with an output folder of its own."""
    meeting = [
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint=127.0.0.1:{free_port()}",
        "--rdzv_id=1",
        "--local-addr=127.0.0.1",
    ]
    launcher = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", *meeting, "-m")
    return [
        warm.start(
            command("pretrain", *overlays, launcher=launcher, output_dir=folder / f"node{node}", **overrides),
            folder / f"log{node}",
            environment=environment(OMP_NUM_THREADS="1"),
        )
        for node in range(2)
    ]


def logs(folder):
    return "".join(path.read_text() for path in folder.glob("log?"))


def last_checkpoint(folder):
    return torch.load(sorted((folder / "checkpoints").glob("*.pt"))[-1], weights_only=True)


def epochs(folder):
    """Numbers by name of every epoch."""
    with (folder / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def kill_with_children(pid):
    """End a process and all that it started, at once."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in children:
        kill_with_children(int(child))


def test_two_nodes_do_what_one_node_does_and_one_process_writes(phantom_dir, tmp_path):
    nodes = start_nodes(tmp_path, "multi_gpu_train", dataset_dir=phantom_dir, **SHORT)
    assert [warm.end_of(node, seconds=200) for node in nodes] == [0, 0], logs(tmp_path)[-4000:]
    written = [folder for folder in (tmp_path / "node0", tmp_path / "node1") if folder.exists()]
    assert len(written) == 1
    launch(tmp_path, "multi_gpu_train", dataset_dir=phantom_dir, output_dir=tmp_path / "one", **SHORT)
    found, expected = last_checkpoint(written[0]), last_checkpoint(tmp_path / "one")
    for part in ("model", "optimizer", "conductor"):
        assert_same(found[part], expected[part], part)
    assert epochs(written[0]) == epochs(tmp_path / "one")


@pytest.mark.slow  # the survivors need some seconds to notice, and two torchruns on two cores half a minute to begin
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_node_ends_the_other(phantom_dir, tmp_path):
    nodes = start_nodes(tmp_path, "multi_gpu_train", dataset_dir=phantom_dir, **SHORT | {"steps_per_epoch": 5000})
    deadline = time.monotonic() + 200
    while "iteration 5/" not in logs(tmp_path):
        assert time.monotonic() < deadline, logs(tmp_path)[-4000:]
        time.sleep(0.2)
    kill_with_children(nodes[1].pid)
    assert warm.end_of(nodes[1]) == -signal.SIGKILL
    assert warm.end_of(nodes[0], seconds=120) == 1
    assert "The cause: " in (tmp_path / "log0").read_text()


@pytest.fixture(scope="module")
def sharded(phantom_dir, tmp_path_factory):
    """The same run with and without `sharded.json`."""
    folder = tmp_path_factory.mktemp("sharded")
    options = {"dataset_dir": phantom_dir, "learning_rate": 0.002, **SHORT, "epochs": 2}
    for name, overlays in (("whole", ("multi_gpu_train", "adamw")), ("parts", (*SHARDED, "adamw"))):
        launch(folder, *overlays, output_dir=folder / name, **options)
    return folder


def test_sharded_processes_learn_what_whole_ones_do(sharded):
    whole, parts = epochs(sharded / "whole"), epochs(sharded / "parts")
    assert len(parts) == 2
    for expected, found in zip(whole, parts, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    found, expected = last_checkpoint(sharded / "parts"), last_checkpoint(sharded / "whole")
    for part in ("model", "optimizer"):
        torch.testing.assert_close(found[part], expected[part], rtol=1e-3, atol=1e-4)


def test_the_files_of_a_sharded_run_are_ordinary_ones(sharded, tmp_path):
    model, expected = (
        torch.load(sharded / name / "model.pt", weights_only=True)["model"] for name in ("parts", "whole")
    )
    assert {type(value) for value in model.values()} == {torch.Tensor}
    torch.testing.assert_close(model, expected, rtol=1e-3, atol=1e-4)
    for name in ("parts", "whole"):
        files = {"output_dir": sharded / name, "encoder_path": tmp_path / f"{name}.pt"}
        run(command("pretrain", "export_encoder", **files))
    parts, whole = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("parts", "whole"))
    assert parts.pop("record") == whole.pop("record")
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4)


def test_a_sharded_run_resumes_bit_for_bit(phantom_dir, tmp_path):
    options = {"dataset_dir": phantom_dir, **SHORT, "epochs": 2, "checkpoint_interval": 1}
    launch(tmp_path, *SHARDED, output_dir=tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole/checkpoints", tmp_path / "parts/checkpoints")
    older, newest = sorted((tmp_path / "parts/checkpoints").glob("*.pt"))
    # without its newest checkpoint the run stands in the middle of its last epoch
    assert older.name == "checkpoint_000000005.pt"
    newest.unlink()
    launch(tmp_path, *SHARDED, output_dir=tmp_path / "parts", resume=True, **options)
    found, expected = last_checkpoint(tmp_path / "parts"), last_checkpoint(tmp_path / "whole")
    for part in ("model", "optimizer", "conductor", "lr_scheduler", "best"):
        assert_same(found[part], expected[part], part)
    assert all(rows.isfinite().all() and rows.any() for rows in found["conductor"]["bank"]["previous"].values())
    assert weights(tmp_path / "parts", "model.pt")["model"].keys() == expected["model"].keys()


def test_one_process_has_nobody_to_share_with(phantom_dir, tmp_path):
    result = run(command("pretrain", "sharded", dataset_dir=phantom_dir, output_dir=tmp_path), check=False)
    assert result.returncode == 1
    assert "there must be a process group. Start the run with torchrun" in result.stderr


def test_sharded_validation_differs_in_the_network_that_is_saved_alone():
    sharded = json.loads(json.dumps(merged("pretrain", "train", *SHARDED)["validate::handlers"]))
    first, *rest = sharded
    assert first["_target_"].endswith("ShardedValidationHandler")
    expected = merged("pretrain", "train")["validate::handlers"]
    saving = [handler for handler in expected if handler["_target_"].endswith("BestModelHandler")]
    assert [handler.pop("network") for handler in saving] == ["@network"]
    assert [handler.pop("network") for handler in rest if "network" in handler] == ["@network_def"]
    assert rest == expected
