"""`multi_gpu_train.json` on two gloo processes."""

import json
import shutil
import socket

import pytest
import torch

from tests import warm
from tests.bundles.conftest import command, environment, run

pytestmark = pytest.mark.dist

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


@pytest.fixture
def dump(tmp_path):
    """An overlay that keeps every process' weights at the end of a run."""
    overlay = {
        "finalize": [
            "$torch.save(@network_def.state_dict(), @output_dir + '/rank' + str(@rank) + '.pt')",
            "$dist.destroy_process_group()",
        ]
    }
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(overlay))
    return str(path)


def weights(folder, name):
    return torch.load(folder / name, weights_only=True)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(folder, *overlays, **overrides):
    """Both ranks, with the environment that torchrun gives them."""
    arguments = command("pretrain", *overlays, **overrides)
    meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}
    logs = [folder / f"log{rank}" for rank in range(2)]
    ranks = [
        warm.start(arguments, log, environment=environment(RANK=f"{rank}", LOCAL_RANK=f"{rank}", **meeting))
        for rank, log in enumerate(logs)
    ]
    for rank, log in zip(ranks, logs, strict=True):
        assert warm.end_of(rank) == 0, log.read_text()[-4000:]


def test_ranks_end_equal_and_equal_one_process_with_twice_the_batch(dump, tmp_path):
    two = tmp_path / "two"
    # steps by the sign of a gradient would tell roundings around zero apart
    options = {"learning_rate": 0.002}
    overlays = ("adamw", "multi_gpu_train", dump)
    run(command("pretrain", *overlays, launcher=TORCHRUN, output_dir=two, batch_size=2, **options), fresh=True)
    first, second = weights(two, "rank0.pt"), weights(two, "rank1.pt")
    assert all(torch.equal(first[key], second[key]) for key in first)
    one = tmp_path / "one"
    run(command("pretrain", "adamw", output_dir=one, batch_size=4, **options))
    checkpoint = sorted((one / "checkpoints").glob("*.pt"))[-1]
    single = torch.load(checkpoint, weights_only=True)["model"]
    for key, value in single.items():
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_two_processes_resume_bit_for_bit(dump, tmp_path):
    options = {"batch_size": 1, "steps_per_epoch": 3, "checkpoint_interval": 1}
    overlays = ("multi_gpu_train", dump)
    launch(tmp_path, *overlays, output_dir=tmp_path / "whole", **options)
    shutil.copytree(tmp_path / "whole/checkpoints", tmp_path / "parts/checkpoints")
    # without its newest checkpoint the run stands in the middle of its last epoch
    older, newest = sorted((tmp_path / "parts/checkpoints").glob("*.pt"))
    assert older.name == "checkpoint_000000005.pt"
    newest.unlink()
    launch(tmp_path, *overlays, output_dir=tmp_path / "parts", resume=True, **options)
    for rank in (0, 1):
        whole, parts = (weights(tmp_path / name, f"rank{rank}.pt") for name in ("whole", "parts"))
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    ranks = [weights(tmp_path / "whole", f"rank{rank}.pt") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][key], ranks[1][key]) for key in ranks[0])
