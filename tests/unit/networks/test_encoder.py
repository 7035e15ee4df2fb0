import itertools

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask

from bertswin_ext.networks.encoder import SwinBlock, SwinEncoder, plan_windows

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
