import itertools
import warnings

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from bertswin_ext.networks.encoder import SwinBlock, SwinEncoder, plan_windows
from bertswin_ext.networks.mask_tokens import checked_mask_token_updates, lay_out_windows
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.masking import VisibleTokens, choose_visible, visible_where
from bertswin_ext.networks.sharding import shard_network
from tests.ranks import alone

CASES = [
    ((4, 4, 4), (2, 2, 2)),
    ((5, 4, 3), (3, 2, 2)),
    ((6, 2, 4), (4, 2, 3)),
    ((3, 3, 3), (3, 3, 3)),
]
SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_layers": 4,
    "num_heads": 2,
    "window_size": 2,
    "decoder_hidden_size": 16,
    "stem_channels": 4,
}
MIXED = ["none", "attention", "full", "none"]


def small(updates=None, **overrides):
    torch.manual_seed(0)
    num_layers = {} if updates is None or isinstance(updates, str) else {"num_layers": len(updates)}
    return BertsWinMAE(**SMALL | num_layers | overrides, mask_token_updates=updates)


def encoder_of(grid, window, updates, num_samples=2, share=0.3, fixed_length=False):
    """An encoder in float64, its input, which tokens are visible, and what it must know of them."""
    torch.manual_seed(0)
    encoder = SwinEncoder(grid, 12, len(updates), 2, window).double()
    encoder.mask_token_updates = checked_mask_token_updates(updates, len(updates))
    x = torch.randn(num_samples, *grid, 12, dtype=torch.float64)
    mask = torch.rand(num_samples, x[0, ..., 0].numel()) < share
    placed = encoder.place(visible_where(mask, fixed_length), grid, num_samples, fixed_length)
    return encoder, x, mask, placed


def layer_norm(norm, token):
    return (token - token.mean()) / (token.var(unbiased=False) + norm.eps).sqrt() * norm.weight + norm.bias


def mix(block, token):
    hidden = block.mlp.linear1.weight @ layer_norm(block.norm2, token) + block.mlp.linear1.bias
    return token + block.mlp.linear2.weight @ torch.nn.functional.gelu(hidden) + block.mlp.linear2.bias


def attend(block, position, friends, tokens, window):
    """What one token takes from the visible tokens of its window, head by head."""
    attn = block.attn
    spans = [2 * size - 1 for size in window]
    table = attn.relative_position_bias_table.view(*spans, attn.num_heads)
    projected = {p: attn.qkv.weight @ layer_norm(block.norm1, tokens[p]) + attn.qkv.bias for p in friends}
    heads = []
    for head in range(attn.num_heads):
        parts = {p: value.view(3, attn.num_heads, -1)[:, head] for p, value in projected.items()}
        query = parts[position][0]
        offsets = [
            tuple(q - k + size - 1 for q, k, size in zip(position, friend, window, strict=True)) for friend in friends
        ]
        scores = [
            query @ parts[friend][1] / len(query) ** 0.5 + table[offset][head]
            for friend, offset in zip(friends, offsets, strict=True)
        ]
        weights = torch.stack(scores).softmax(0)
        heads.append(sum(weight * parts[friend][2] for weight, friend in zip(weights, friends, strict=True)))
    return attn.proj.weight @ torch.cat(heads) + attn.proj.bias


def plain_block_without_mask_tokens(block, x, visible, window, shift):
    """Token by token; shifted windows begin at shift - window, shift, shift + window, ..."""
    out = x.clone()
    positions = list(itertools.product(*(range(size) for size in x.shape[1:4])))
    for sample in range(len(x)):
        tokens = {p: x[(sample, *p)] for p, is_visible in zip(positions, visible[sample], strict=True) if is_visible}
        rooms = {p: tuple((a - s) // w for a, s, w in zip(p, shift, window, strict=True)) for p in tokens}
        for p in tokens:
            friends = [q for q in tokens if rooms[q] == rooms[p]]
            out[(sample, *p)] = mix(block, tokens[p] + attend(block, p, friends, tokens, window))
    return out


@pytest.mark.parametrize("fixed_length", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CASES)
@torch.no_grad()
def test_a_block_without_mask_tokens_is_attention_and_mlp_among_visible_ones(grid, window, shifted, fixed_length):
    encoder, x, mask, placed = encoder_of(grid, window, ["none", "none", "full"], fixed_length=fixed_length)
    block, plan = encoder.blocks[int(shifted)], plan_windows(grid, window)
    shift = plan.shift if shifted else (0, 0, 0)
    expected = plain_block_without_mask_tokens(block, x, mask, window, shift)
    torch.testing.assert_close(block(x, plan, placed[int(shifted)]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fixed_length", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
@torch.no_grad()
def test_mask_tokens_may_skip_the_mlp_alone(shifted, fixed_length):
    encoder, x, mask, placed = encoder_of((5, 4, 3), (3, 2, 2), ["attention"] * 2, fixed_length=fixed_length)
    block, plan = encoder.blocks[int(shifted)], plan_windows((5, 4, 3), (3, 2, 2))
    expected = (x + block._attend(block.norm1(x), plan)).flatten(1, 3)
    for sample, token in mask.nonzero().tolist():
        expected[sample, token] = mix(block, expected[sample, token])
    found = block(x, plan, placed[int(shifted)]).flatten(1, 3)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fixed_length", [False, True])
@torch.no_grad()
def test_without_mask_tokens_a_block_is_the_standard_one(fixed_length):
    """Where windows fit the grid: the zeros that fill windows up are seen by the standard block, but not here."""
    encoder, x, _, placed = encoder_of((4, 4, 4), (2, 2, 2), MIXED, share=1.0, fixed_length=fixed_length)
    torch.testing.assert_close(encoder(x, placed), encoder(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("fixed_length", [False, True])
@torch.no_grad()
def test_mask_tokens_pass_unchanged_and_unseen(fixed_length):
    encoder, x, mask, placed = encoder_of((4, 4, 4), (2, 2, 2), ["none", "none", "full"], fixed_length=fixed_length)
    hidden = ~mask.view(x.shape[:4])
    changed = torch.where(hidden[..., None], torch.full_like(x, 1e6), x)
    before, after = x, changed
    for block, place in zip(encoder.blocks[:2], placed[:2], strict=True):
        plan = encoder._plan_for(x)
        before, after = block(before, plan, place), block(after, plan, place)
    assert torch.equal(before[hidden], x[hidden])
    assert torch.equal(after[hidden], changed[hidden])
    assert torch.equal(before[~hidden], after[~hidden])
    assert not torch.equal(before[~hidden], x[~hidden])


@pytest.mark.parametrize("fixed_length", [False, True])
def test_windows_samples_and_batches_without_a_visible_token(fixed_length):
    torch.manual_seed(0)
    encoder = SwinEncoder((4, 4, 4), 12, 3, 2, (2, 2, 2))
    encoder.mask_token_updates = ("none", "none", "attention")
    for samples in ([[0, 1, 2], []], [[], []]):
        mask = torch.zeros(2, 64, dtype=torch.bool)
        for sample, tokens in enumerate(samples):
            mask[sample, tokens] = True
        x = torch.randn(2, 4, 4, 4, 12, requires_grad=True)
        placed = encoder.place(visible_where(mask, fixed_length), (4, 4, 4), 2, fixed_length)
        assert not any(place.windows.blocked.all(-1).any() for place in placed[:2])
        output = encoder(x, placed)
        gradients = torch.autograd.grad(output.square().sum(), [x, *encoder.parameters()])
        assert torch.isfinite(output).all()
        assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_gradients():
    torch.manual_seed(0)
    block = SwinBlock(4, 2, (2, 2, 1), True).double()
    x = torch.randn(1, 2, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    encoder = SwinEncoder((2, 3, 1), 4, 2, 2, (2, 2, 1)).double()
    encoder.mask_token_updates = ("attention", "none")
    mask = torch.tensor([[True, False, True, True, False, False]])
    names = [name for name, _ in block.named_parameters()]
    for place in encoder.place(visible_where(mask), (2, 3, 1), 1):

        def run(x, *values, place=place):
            plan = plan_windows((2, 3, 1), (2, 2, 1))
            return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x, plan, place))

        assert torch.autograd.gradcheck(run, (x, *block.parameters()), fast_mode=True)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("grid", "window"), CASES)
def test_the_layout_is_that_of_the_windows_of_a_block(grid, window, shifted):
    """A block rolls, pads and cuts the grid; here every token carries its own number through it."""
    plan, block = plan_windows(grid, window), SwinBlock(4, 2, window, shifted)
    shift = plan.shift if shifted else (0, 0, 0)
    layout, seen = lay_out_windows(grid, window, shift), []
    block.attn.forward = lambda windows, blocked=None: seen.append((windows, blocked)) or windows
    numbers = torch.arange(1, len(layout.slot) + 1, dtype=torch.float32)
    block._attend(numbers.view(1, *grid, 1), plan)
    windows, blocked = seen[0]
    assert windows.shape == (layout.num_windows, layout.window_tokens, 1)
    assert torch.equal(windows.flatten()[layout.slot], numbers)
    if blocked is not None:
        region = torch.full((windows.numel(),), -1).index_copy(0, layout.slot, layout.region).view(len(windows), -1)
        known = (region[:, :, None] >= 0) & (region[:, None, :] >= 0)
        assert torch.equal((region[:, :, None] != region[:, None, :])[known], blocked[known])


def test_windows_have_room_for_the_fullest_one():
    encoder = SwinEncoder((8, 8, 8), 12, 2, 2, (4, 4, 4))
    encoder.mask_token_updates = ("none", "full")
    mask = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    mask[0, :2, :4, 0] = mask[0, 4, 4, 4] = True
    for count, room in [(9, 8), (10, 16)]:
        place = encoder.place(visible_where(mask.flatten(1)), (8, 8, 8), 1)[0]
        assert mask.sum() == count
        assert place.windows.blocked.shape == (8, room, room)
        mask[0, 3, 3, 3] = True
    whole = encoder.place(visible_where(mask.flatten(1), True), (8, 8, 8), 1, fixed_length=True)[0]
    assert whole.windows.blocked.shape == (8, 64, 64)


def test_entries_that_are_not_live_are_mask_tokens():
    encoder, x, _, _ = encoder_of((4, 4, 4), (2, 2, 2), MIXED)
    valid, noise = torch.rand(2, 64) < 0.4, torch.rand(2, 64)
    visible = [choose_visible(noise, 0.5, valid, fixed_length=fixed_length) for fixed_length in (False, True)]
    assert not visible[1].live.all()
    ragged, padded = (
        encoder(x, encoder.place(tokens, (4, 4, 4), 2, fixed_length=fixed_length))
        for tokens, fixed_length in zip(visible, (False, True), strict=True)
    )
    torch.testing.assert_close(padded, ragged, rtol=1e-10, atol=1e-10)


def test_samples_of_a_batch_do_not_meet():
    network = small(MIXED).double()
    x, noise = torch.randn(3, 1, 32, 32, 32, dtype=torch.float64), torch.rand(3, 64)
    valid = torch.rand(3, 64) < torch.tensor([[1.0], [0.6], [0.2]])
    together = network(x, valid, noise)["reconstruction"]
    for sample in range(3):
        one = slice(sample, sample + 1)
        torch.testing.assert_close(network(x[one], valid[one], noise[one])["reconstruction"], together[one])


def test_masked_voxels_never_influence_the_reconstruction():
    network, x, noise = small(MIXED), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    output = network(x, noise=noise)
    hidden = output["masked"].view(1, 1, 4, 4, 4)
    for axis in (2, 3, 4):
        hidden = hidden.repeat_interleave(8, axis)
    changed = torch.where(hidden, torch.randn_like(x) * 100, x)
    assert torch.equal(network(changed, noise=noise)["reconstruction"], output["reconstruction"])


def test_parameters_and_all_that_hides_nothing_are_those_of_the_standard_network():
    standard, network = small(), small(MIXED)
    weights = standard.state_dict()
    assert {name: value.shape for name, value in network.state_dict().items()} == {
        name: value.shape for name, value in weights.items()
    }
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    x = torch.randn(1, 1, 32, 32, 48)
    assert torch.equal(network.encode_patches(x), standard.encode_patches(x))
    assert torch.equal(network.encode_volume(x), standard.encode_volume(x))
    assert torch.equal(network.forward_intermediates(x)[1][0], standard.forward_intermediates(x)[1][0])
    noise = torch.rand(1, 64)
    cube = x[..., :32]
    assert not torch.allclose(
        network(cube, noise=noise)["reconstruction"], standard(cube, noise=noise)["reconstruction"]
    )


@pytest.mark.parametrize("updates", ["full", ["full"] * 4, None])
def test_full_updates_are_the_standard_network(updates):
    network, standard = small(updates), small()
    assert network.arguments == standard.arguments
    assert "mask_token_updates" not in network.arguments
    x, noise = torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    assert torch.equal(network(x, noise=noise)["reconstruction"], standard(x, noise=noise)["reconstruction"])


@pytest.mark.parametrize(("updates", "stored"), [("attention", ["attention"] * 4), (tuple(MIXED), MIXED)])
def test_an_equal_network_is_built_from_its_arguments(updates, stored):
    network = small(updates)
    assert network.arguments["mask_token_updates"] == stored
    again = BertsWinMAE(**network.arguments)
    assert again.arguments == network.arguments
    again.load_state_dict(network.state_dict())
    x, noise = torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    assert torch.equal(again(x, noise=noise)["reconstruction"], network(x, noise=noise)["reconstruction"])


def test_invalid_tokens_of_encode_patches_are_mask_tokens():
    network = small(["none", "none", "none", "attention"]).double()
    x, valid = torch.randn(2, 1, 32, 32, 48, dtype=torch.float64), torch.rand(2, 96) < 0.5
    tokens = network.stem.embed_patches(x.unfold(2, 8, 8).unfold(3, 8, 8).unfold(4, 8, 8).reshape(-1, 1, 8, 8, 8))
    grid = (4, 4, 6)
    tokens = torch.where(valid[..., None], tokens.view(2, 96, -1), network.mask_token)
    placed = network.encoder.place(visible_where(valid), grid, 2)
    expected = network.encoder(network._place(tokens, grid), placed).movedim(-1, 1)
    torch.testing.assert_close(network.encode_patches(x, valid), expected)
    assert not torch.allclose(expected, small().double().encode_patches(x, valid))


def test_bfloat16_autocast_trains():
    network = small(MIXED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(torch.randn(2, 1, 32, 32, 32))["reconstruction"]
    output.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())


def test_half_precision_networks():
    network = small(MIXED).bfloat16()
    assert network(torch.randn(1, 1, 32, 32, 32, dtype=torch.bfloat16))["reconstruction"].dtype == torch.bfloat16


def test_compiled_equals_eager():
    network = small(["attention", "none"], img_size=(24, 32, 16))
    x, noise, valid = torch.randn(2, 1, 24, 32, 16), torch.rand(2, 24), torch.rand(2, 24) > 0.4
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    results = []
    for run in (network, compiled):
        volume = run(x, valid=valid, noise=noise)["reconstruction"]
        results.append([volume, *torch.autograd.grad(volume.square().mean(), list(network.parameters()))])
    for eager, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-6)


def test_one_graph_serves_all_batches():
    network, counter = small(["attention", "none"], img_size=16, activation_checkpointing=True), CompileCounter()
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    for share in (1.0, 0.5, 0.1):
        compiled(torch.randn(2, 1, 16, 16, 16), valid=torch.rand(2, 8) < share)["reconstruction"].mean().backward()
    assert counter.frame_count == 1


def test_export():
    network, x = small(["attention", "none"], img_size=16).eval(), torch.randn(1, 1, 16, 16, 16)
    program = torch.export.export(network, (x,), {"noise": torch.rand(1, 8)})
    other = torch.rand(1, 8)
    torch.testing.assert_close(
        program.module()(x, noise=other)["reconstruction"], network(x, noise=other)["reconstruction"]
    )


def test_checkpointed_blocks_give_the_same_gradients():
    x, noise, found = torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64), []
    for checkpointing in (False, True):
        network = small(MIXED, activation_checkpointing=checkpointing)
        volume = network(x, noise=noise)["reconstruction"]
        terms, parameters = (volume.mean(), volume.square().mean()), list(network.parameters())
        found.append([torch.autograd.grad(term, parameters, retain_graph=True) for term in terms])
    for mine, theirs in zip(*found, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_sharded_networks_give_the_same(tmp_path):
    network, x, noise = small(MIXED), torch.randn(1, 1, 32, 32, 32), torch.rand(1, 64)
    with alone(tmp_path):
        sharded = shard_network(network, "cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            output = sharded(x, noise=noise)["reconstruction"]
        output.mean().backward()
        found = sharded.encoder.blocks[0].attn.relative_position_bias_table.grad.full_tensor()
    expected = network(x, noise=noise)["reconstruction"]
    expected.mean().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(found, network.encoder.blocks[0].attn.relative_position_bias_table.grad)


def test_the_standard_network_prepares_nothing():
    visible = VisibleTokens(torch.tensor([0]), torch.tensor([1]), torch.tensor([True]))
    assert small().encoder.place(visible, (4, 4, 4), 1) is None


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ("mlp", r"`mask_token_updates` must consist of 'full', 'attention' and 'none', got 'mlp'\. Give one"),
        (["full", "none", None, "full"], r"must consist of 'full', 'attention' and 'none', got None\. Give one"),
        (["full", "none"], r"one entry for each of the 4 blocks .* got 2: \['full', 'none'\]\. Add or remove entries"),
        ([], r"one entry for each of the 4 blocks \(`num_layers`\), got 0: \[\]\."),
        ("none", r"at least one block, got 'none' for all 4: nothing hidden .* 'attention', or leave the argument out"),
    ],
)
def test_bad_updates(updates, message):
    with pytest.raises(ValueError, match=message):
        small(updates, num_layers=4)
