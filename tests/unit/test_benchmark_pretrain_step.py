"""What can be said of the benchmark of a pre-training step without running it for minutes."""

import pytest
import torch


@pytest.fixture
def benchmark(imported):
    return imported


@pytest.fixture
def tiny(benchmark, monkeypatch):
    # 3 tokens per axis in windows of 2: padded, rolled and masked
    size = benchmark("step.arms").Size(24, 8, 24, 2, 2, 2, 16, 4, 4, batch=2, steps=2)
    monkeypatch.setitem(benchmark("step.arms").SIZES, "tiny", size)


@pytest.fixture
def setting(benchmark):
    return benchmark("step.setting").Setting("cpu", "float32", torch.get_num_threads(), 0, False)


@pytest.fixture(autouse=True)
def unlimited(benchmark, monkeypatch):
    # the tests stay in this process
    monkeypatch.setattr(benchmark("step.facts"), "prepare", lambda _: torch.manual_seed(0))
    monkeypatch.setattr(benchmark("step.turns"), "prepare", lambda _: torch.manual_seed(0))


def row(benchmark, arm, number=0, seconds=1.0, **changes):
    names = {
        "device": "cpu",
        "machine": "one",
        "software": "torch",
        "size": "demo",
        "dtype": "float32",
        "attention": "math",
    }
    memory = {"memory_batch": 4, "memory_mb": 100.0, "tensors_mb": 50.0, "kept_mb": 10.0}
    work = {"gflop": 2.0, "ceiling_gflops": 16.0, "parameters": 1, "deviation": 1e-7, "batch": 4}
    parts = dict.fromkeys(("forward", "loss", "backward", "decide", "update"), seconds / 5)
    values = names | memory | work | parts | {"arm": arm, "round": number}
    return benchmark("step.rows").Row(**values | changes)


@pytest.mark.parametrize("conducted", [False, True])
@pytest.mark.usefixtures("tiny")
def test_the_straightforward_network_is_the_same_function(benchmark, setting, conducted):
    assert benchmark("step.facts").deviation("tiny", conducted, setting) < 1e-5


@pytest.mark.usefixtures("tiny")
def test_a_network_that_masks_nothing_is_found_out(benchmark, setting, monkeypatch):
    monkeypatch.setattr(benchmark("step.straightforward"), "BLOCKED", 0.0)
    assert benchmark("step.facts").deviation("tiny", False, setting) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.usefixtures("tiny")
def test_every_method_makes_a_step(benchmark, setting, dtype):
    arms, turns = benchmark("step.arms"), benchmark("step.turns")
    for name in arms.arm_names(arms.SIZES["tiny"], compiled=False):
        seconds = turns.measure(name, "tiny", 2, setting._replace(dtype=dtype))
        assert list(seconds) == ["forward", "loss", "backward", "decide", "update"]


@pytest.mark.usefixtures("tiny")
def test_three_losses_take_two_backward_passes_more(benchmark, setting):
    arms, facts = benchmark("step.arms"), benchmark("step.facts")
    three, one = (
        facts.flops(arm, torch.randn(2, 1, 24, 24, 24), setting)
        for arm in (arms.make_arm(name, arms.SIZES["tiny"], "cpu") for name in (arms.PLAIN, arms.PLAIN_ONE))
    )
    # a forward pass and one backward pass of twice its work, nearly
    assert 2.2 < three / one < 2.5


def test_swin_unetr_stays_out_where_it_does_not_fit(benchmark):
    arms = benchmark("step.arms")
    assert arms.SWIN not in arms.arm_names(arms.SIZES["demo"], False)
    assert arms.SWIN in arms.arm_names(arms.SIZES["96"], False)


def test_swins_heads_and_losses(benchmark):
    ssl = benchmark("step.swin_ssl")
    network = ssl.SwinSSL(12)
    views = torch.randn(2, 1, 32, 32, 32)
    with pytest.raises(IndexError):
        # one token at the bottom: there is none for the contrast
        network(views)
    output = {"rotation": torch.zeros(2, 4), "contrast": torch.ones(2, 8), "inpainting": views + 1}
    # of two equal views alone the contrast is certain
    assert float(ssl.ssl_loss(output, views)) == pytest.approx(1 + torch.tensor(4.0).log().item())


def test_ratios_are_taken_round_by_round(benchmark):
    arms, figures = benchmark("step.arms"), benchmark("step.figures")
    rows = [
        *(row(benchmark, arms.OURS, number, seconds) for number, seconds in enumerate((1.0, 2.0))),
        *(row(benchmark, arms.PLAIN, number, seconds) for number, seconds in enumerate((3.0, 8.0))),
        *(row(benchmark, arms.VIT, number, 2.0, gflop=1.0) for number in range(2)),
    ]
    group = figures.Group(rows)
    assert group.speed(arms.OURS, "float32") == pytest.approx([3.0, 4.0])
    # 2 GFLOP for each of four volumes in a second, of 16
    assert group.utilization(arms.OURS, "float32") == pytest.approx([0.5, 0.25])
    assert group.per_flop(arms.OURS, "float32") == pytest.approx([0.25, 0.5])


def test_the_page_says_what_is_met_and_that_no_gpu_was_there(benchmark, tmp_path):
    arms, page, store = (benchmark(f"step.{name}") for name in ("arms", "page", "rows"))
    rows = [row(benchmark, arms.OURS, memory_mb=80.0), row(benchmark, arms.PLAIN, seconds=3.0)]
    store.replace_rows(tmp_path / "step.csv", rows)
    page.write_page(store.read_rows(tmp_path / "step.csv"), tmp_path)
    text = (tmp_path / "step.md").read_text()
    assert "| speed in float32, x straightforward | >= 1.5 | 3.00 | yes |" in text
    assert "| peak memory in float32, x straightforward | <= 0.7 | 0.80 | no |" in text
    assert "Nobody has run this on a GPU yet" in text
    assert (tmp_path / "step.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("attention", "is_met"), [("efficient_attention; fmha_cutlassF", True), ("attention_math", False)]
)
def test_a_gpu_must_not_fall_back_to_plain_attention(benchmark, attention, is_met):
    arms, figures = benchmark("step.arms"), benchmark("step.figures")
    rows = [row(benchmark, arms.OURS, device="cuda", dtype="bfloat16", attention=attention)]
    goals = {what: is_ok for what, _, _, is_ok in benchmark("step.page").goals(figures.Group(rows))}
    assert goals["attention in bfloat16"] == is_met


def test_rows_of_other_machines_and_sizes_stay(benchmark, tmp_path):
    store = benchmark("step.rows")
    first = [row(benchmark, "a"), row(benchmark, "b", machine="two"), row(benchmark, "c", size="96")]
    store.replace_rows(tmp_path / "step.csv", first)
    again = row(benchmark, "d", seconds=2.0)
    store.replace_rows(tmp_path / "step.csv", [again])
    assert store.read_rows(tmp_path / "step.csv") == [*first[1:], again]


def test_names_that_are_not_there_are_refused(benchmark):
    command = benchmark("pretrain_step")
    assert command.some_of(("demo", 96), ["demo", "96"], "sizes") == ["demo", "96"]
    with pytest.raises(SystemExit, match="--sizes must be some of demo, 96, got 95"):
        command.some_of("95", ["demo", "96"], "sizes")
