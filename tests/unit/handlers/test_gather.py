"""One list from several processes."""

import multiprocessing

from torch import distributed as dist

from bertswin_ext.handlers.gather import gathered


def _rank(rank, folder, results):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results.put((rank, gathered([f"rank {rank}"] * (2 - rank))))
    dist.destroy_process_group()


def test_one_process():
    values = ("a", "b")
    assert gathered(values) == ["a", "b"]


def test_two_processes_have_the_same_list(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, tmp_path, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert found == {rank: ["rank 0", "rank 0", "rank 1"] for rank in range(2)}
