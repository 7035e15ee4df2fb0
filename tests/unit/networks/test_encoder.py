import itertools

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask
from torch.nn.attention import SDPBackend, sdpa_kernel

from bertswin_ext.networks.encoder import SwinBlock, SwinEncoder, WindowAttention, plan_windows

CASES = [
    ((4, 4, 4), (2, 2, 2)),
    ((5, 6, 7), (3, 3, 3)),
    ((8, 5, 4), (4, 4, 4)),
    ((6, 6, 6), (4, 3, 2)),
    ((3, 3, 3), (3, 3, 3)),
]


def reachable(grid, window, shift, num_blocks):
    """Tokens that each token can influence, worked out window by window: (n, n) bool."""
    padded = [-(-g // w) * w for g, w in zip(grid, window, strict=True)]
    positions = list(itertools.product(*(range(g) for g in grid)))
    reach = torch.eye(len(positions), dtype=torch.bool)
    for layer in range(num_blocks):
        rooms = []
        for position in positions:
            room = []
            for p, size, w, s in zip(position, padded, window, shift, strict=True):
                # shifted windows begin at s - w, s, s + w, ...; the far end does not meet the near end
                room.append((p - s) // w if layer % 2 and s else p // w)
                assert 0 <= p < size
            rooms.append(tuple(room))
        together = torch.tensor([[a == b for b in rooms] for a in rooms])
        reach = (reach.float() @ together.float()) > 0
    return reach


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CASES)
def test_block_equals_monai(grid, window, shifted):
    torch.manual_seed(0)
    plan = plan_windows(grid, window)
    ours = SwinBlock(24, 3, window, shifted).double()
    shift = plan.shift if shifted else (0, 0, 0)
    theirs = SwinTransformerBlock(24, 3, window, shift, qkv_bias=True).double()
    renamed = {"attn.relative_position_index": theirs.attn.relative_position_index}
    theirs.load_state_dict(ours.state_dict() | renamed)
    x = torch.randn(2, *grid, 24, dtype=torch.float64)
    padded = [g + p for g, p in zip(grid, plan.padding, strict=True)]
    mask = compute_mask(padded, window, shift, "cpu").double() if any(shift) else None
    torch.testing.assert_close(ours(x, plan), theirs(x, mask), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("grid", "window"), CASES)
def test_one_token_influences_exactly_the_tokens_of_its_window_path(grid, window):
    torch.manual_seed(0)
    encoder = SwinEncoder(grid, 24, 2, 3, window).double()
    expected = reachable(grid, window, plan_windows(grid, window).shift, 2)
    base = torch.randn(1, *grid, 24, dtype=torch.float64)
    with torch.no_grad():
        before = encoder(base)
        for token in range(0, expected.shape[0], 7):
            changed = base.clone().view(1, -1, 24)
            changed[0, token] += torch.randn(24, dtype=torch.float64)
            after = encoder(changed.view_as(base))
            moved = (after != before).any(-1).flatten()
            torch.testing.assert_close(moved, expected[token])


def test_a_window_as_large_as_the_axis_is_not_shifted():
    plan = plan_windows((4, 8, 4), (4, 4, 4))
    assert plan.shift == (0, 2, 0)
    assert plan.blocked.shape == (2, 64, 64)
    assert plan_windows((4, 4, 4), (4, 4, 4)).blocked is None


def test_other_grids_are_planned_when_they_come():
    torch.manual_seed(0)
    encoder = SwinEncoder((4, 4, 4), 12, 2, 2, (2, 2, 2))
    other = SwinEncoder((6, 5, 4), 12, 2, 2, (2, 2, 2))
    other.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 6, 5, 4, 12)
    torch.testing.assert_close(encoder(x), other(x), rtol=0, atol=0)


def test_derived_tables_stay_out_of_the_state_dict():
    encoder = SwinEncoder((4, 4, 4), 12, 2, 2, (2, 2, 2))
    assert not [key for key in encoder.state_dict() if "index" in key or "blocked" in key]


def test_no_subnormal_weights_where_windows_are_blocked():
    encoder = SwinEncoder((4, 4, 4), 12, 2, 2, (2, 2, 2))
    x = torch.randn(1, 4, 4, 4, 12, requires_grad=True)
    encoder(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("window", [(2, 2, 2), (3, 3, 3), (2, 3, 1)])
def test_every_pair_of_a_window_finds_its_entry_of_the_bias_table(window):
    attention = WindowAttention(4, 2, window)
    spans = [2 * size - 1 for size in window]
    table = attention.relative_position_bias_table.detach().view(*spans, 2)
    positions = list(itertools.product(*(range(size) for size in window)))
    bias = attention.position_bias()
    assert bias.shape == (2, len(positions), len(positions))
    for (row, query), (column, key) in itertools.product(enumerate(positions), enumerate(positions)):
        offset = tuple(q - k + size - 1 for q, k, size in zip(query, key, window, strict=True))
        assert torch.equal(bias[:, row, column], table[offset])


@pytest.mark.parametrize("shifted", [False, True])
def test_rows_of_the_bias_are_aligned_and_no_window_has_its_own(shifted, monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask: seen.append(attn_mask) or attend(q, k, v, attn_mask=attn_mask),
    )
    SwinBlock(8, 2, (3, 3, 3), shifted)(torch.randn(2, 6, 6, 6, 8), plan_windows((6, 6, 6), (3, 3, 3)))
    assert seen[0].shape == (16 if shifted else 1, 2, 27, 27)
    assert [step % 8 for step in seen[0].stride()] == [0, 0, 0, 1]


def test_inference_on_a_cpu_takes_the_fused_kernel():
    encoder = SwinEncoder((6, 6, 6), 32, 2, 2, (3, 3, 3)).eval()
    x = torch.randn(1, 6, 6, 6, 32)
    with torch.inference_mode():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            fused = encoder(x)
        with sdpa_kernel(SDPBackend.MATH):
            torch.testing.assert_close(encoder(x), fused)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: which kernel runs is its own matter")
@pytest.mark.parametrize("window", [3, 7])
def test_training_on_a_gpu_takes_a_fused_kernel(window):
    encoder = SwinEncoder((14, 14, 14), 64, 2, 2, (window,) * 3).cuda()
    x = torch.randn(2, 14, 14, 14, 64, device="cuda", requires_grad=True)
    fused = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    # raises where only the math path would take the call
    with torch.autocast("cuda", dtype=torch.bfloat16), sdpa_kernel(fused):
        encoder(x).float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def three_gradients(encoder, x):
    output = encoder(x)
    losses = [output.mean(), output.square().mean(), output.abs().sum()]
    return [
        torch.autograd.grad(loss, [x, *encoder.parameters()], retain_graph=loss is not losses[-1]) for loss in losses
    ]


def test_checkpointed_blocks_give_the_same_gradients_for_less_memory():
    torch.manual_seed(0)
    encoder = SwinEncoder((4, 4, 4), 12, 3, 2, (2, 2, 2))
    x = torch.randn(2, 4, 4, 4, 12, requires_grad=True)
    kept, found = {}, {}
    for checkpointing in (False, True):
        encoder.activation_checkpointing = checkpointing
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            encoder(x)
        kept[checkpointing], found[checkpointing] = sum(sizes), three_gradients(encoder, x)
    assert kept[True] < kept[False] / 3
    for plain, again in zip(found[False], found[True], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_nothing_is_checkpointed_outside_of_training(monkeypatch):
    calls = []
    monkeypatch.setattr("bertswin_ext.networks.encoder.checkpoint", lambda *_, **__: calls.append(1))
    encoder = SwinEncoder((2, 2, 2), 12, 1, 2, (2, 2, 2), activation_checkpointing=True)
    x = torch.randn(1, 2, 2, 2, 12)
    with torch.no_grad():
        encoder(x)
    encoder.eval()(x)
    assert not calls
    encoder.train()(x)
    assert calls == [1]
