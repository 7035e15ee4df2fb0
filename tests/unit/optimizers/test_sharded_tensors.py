import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from bertswin_ext.optimizers.sharded_tensors import local, own_part, stacked, whole
from tests.ranks import found_by

pytestmark = pytest.mark.dist

SHAPES = {"even": (4, 3), "odd": (5, 3), "short": (1, 6), "single": (1,)}
CUTS = {"even": 0, "odd": 0, "short": 1, "single": 0}


def tensor_of(name, rows=None):
    shape = SHAPES[name] if rows is None else (rows, *SHAPES[name])
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)


def work(rank):
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for name, axis in CUTS.items():
        like = distribute_tensor(tensor_of(name), mesh, [Shard(axis)])
        part = own_part(tensor_of(name, rows=3), like)
        rows = stacked(part.to_local(), like)
        found[name] = {
            "local": local(like).clone(),
            "whole": whole(like),
            "part": part.to_local().clone(),
            "rows": whole(rows),
            "shares memory": rows.to_local().data_ptr() == part.to_local().data_ptr(),
        }
        local(like).fill_(rank)
        found[name]["written"] = like.full_tensor()
    everywhere = distribute_tensor(tensor_of("odd"), mesh, [Replicate()])
    found["everywhere"] = own_part(tensor_of("odd"), everywhere).to_local()
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by(2, work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", SHAPES)
def test_the_whole_is_with_the_first_process_only(ranks, name):
    assert torch.equal(ranks[0][name]["whole"], tensor_of(name))
    assert ranks[1][name]["whole"] is None


@pytest.mark.parametrize("name", SHAPES)
def test_parts_make_the_whole(ranks, name):
    axis = CUTS[name]
    assert torch.equal(torch.cat([found[name]["local"] for found in ranks], dim=axis), tensor_of(name))
    rows = torch.cat([found[name]["part"] for found in ranks], dim=axis + 1)
    assert torch.equal(rows, tensor_of(name, rows=3))


@pytest.mark.parametrize("name", SHAPES)
def test_rows_are_put_together_in_their_memory(ranks, name):
    assert torch.equal(ranks[0][name]["rows"], tensor_of(name, rows=3))
    assert ranks[0][name]["shares memory"]


def test_the_local_part_is_the_memory_of_the_tensor(ranks):
    assert ranks[0]["even"]["written"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2


def test_a_tensor_that_is_everywhere_stays_so(ranks):
    assert all(torch.equal(found["everywhere"], tensor_of("odd")) for found in ranks)


def test_ordinary_tensors_pass():
    tensor = torch.ones(2, requires_grad=True)
    assert whole(tensor) is tensor
    assert local(tensor).data_ptr() == tensor.data_ptr()
    assert not local(tensor).requires_grad
