"""`BertsWinMAE` against frozen numbers of the authors' network, weights crossing through the converter."""

import numpy as np
import pytest
import torch

from bertswin_ext.losses import MaskedL2Loss
from bertswin_ext.networks import BertsWinMAE, convert_upstream_state_dict
from tests.golden import reference

pytestmark = pytest.mark.golden

CASES = ["model_a_loose", "model_d_loose"]
# largest deviation of an entry, in standard deviations of its tensor; float64 decides
LIMITS = {torch.float64: 2e-6, torch.float32: 5e-5}
GRADIENT_LIMITS = {torch.float64: 2e-6, torch.float32: 2e-4}
# relative deviation of sums, norms and the loss
RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-5}
DTYPES = [torch.float64, torch.float32]


class Case:
    def __init__(self, name, dtype):
        self.description, self.arrays = reference.load(name)
        config = self.description["config"]
        self.patch_size = config["patch_size"]
        self.network = BertsWinMAE(
            img_size=config["img_size"],
            patch_size=config["patch_size"],
            in_channels=config["in_chans"],
            hidden_size=config["encoder_embed_dim"],
            num_layers=config["encoder_depths"][0],
            num_heads=config["encoder_num_heads"][0],
            window_size=config["swin_window_size"],
            decoder_hidden_size=config["decoder_embed_dim"],
            stem_channels=config["stem_base_dim"],
            masking_ratio=config["mask_ratio"],
            ratio_of="all",
        )
        upstream = {k: torch.from_numpy(v) for k, v in reference.upstream_state_dict(self.description).items()}
        converted, report = convert_upstream_state_dict(upstream, self.network, axes="ijk", min_match=1.0)
        assert not report.unexpected
        self.network.load_state_dict(converted)
        self.network.to(dtype)
        volume = reference.volume(config["batch"], config["in_chans"], config["img_size"])
        self.x = torch.from_numpy(volume).to(dtype)
        self.noise = torch.from_numpy(self.arrays["noise"])
        self.dtype = dtype

    def check(self, actual, key, limit=None):
        expected = self.arrays[key]
        actual = actual.detach().double().numpy()
        assert actual.shape == expected.shape
        deviation = np.abs(actual - expected).max() / max(expected.std(), 1e-12)
        assert deviation <= (limit or LIMITS[self.dtype]), f"{key}: {deviation:.2e} of its deviation"

    def check_sum(self, actual, key):
        """Sum, norm and largest magnitude of a whole tensor."""
        actual = actual.detach().double()
        total, norm, largest = self.arrays[key][:3]
        limit = RELATIVE[self.dtype]
        assert actual.norm().item() == pytest.approx(norm, rel=limit)
        assert actual.abs().max().item() == pytest.approx(largest, rel=limit)
        assert actual.sum().item() == pytest.approx(total, rel=limit, abs=limit * norm)


@pytest.fixture(params=[(name, dtype) for name in CASES for dtype in DTYPES], ids=str, scope="module")
def case(request):
    return Case(*request.param)


def test_input_and_positions(case):
    flat = case.x.double().flatten().numpy()
    np.testing.assert_array_equal(flat[:16], case.arrays["input_first16"])
    np.testing.assert_array_equal(flat[::997], case.arrays["input_stride997"])
    np.testing.assert_allclose(case.network.position_table.numpy(), case.arrays["pos_embed"], atol=1e-6)


def test_forward(case):
    kept = {}
    handles = [
        block.register_forward_hook(lambda _m, _i, output, layer=layer: kept.update({layer: output}))
        for layer, block in enumerate(case.network.encoder.blocks)
    ]
    handles.append(case.network.stem.register_forward_hook(lambda _m, _i, output: kept.update(stem=output[0])))
    with torch.no_grad():
        output = case.network(case.x, noise=case.noise)
    for handle in handles:
        handle.remove()
    batch, num_visible, hidden = case.arrays["fwd.stem_visible_tokens"].shape
    case.check(kept["stem"].view(batch, num_visible, hidden), "fwd.stem_visible_tokens")
    case.check(kept[0], "fwd.block0")
    case.check(kept[1], "fwd.encoded_last_block")
    case.check_sum(kept[0], "fwd.block0_chk")
    np.testing.assert_array_equal(output["masked"].numpy(), case.arrays["fwd.mask"].astype(bool))
    if "fwd.cube" in case.arrays:
        case.check(output["reconstruction"], "fwd.cube")
    else:
        case.check(output["reconstruction"][..., ::3, ::3, ::3], "fwd.cube_s3")
    case.check_sum(output["reconstruction"], "fwd.cube_chk")


def test_loss_and_gradients(case):
    case.network.zero_grad()
    loss = MaskedL2Loss(case.patch_size)(case.network(case.x, noise=case.noise), case.x)
    assert loss.item() == pytest.approx(float(case.arrays["l2_loss"]), rel=RELATIVE[case.dtype])
    loss.backward()
    gradients = {key: value.grad for key, value in case.network.named_parameters()}
    ours = {
        "mask_token_enc": "mask_token",
        "patch_embed.0.weight": "stem.stages.0.0.weight",
        "features.0.0.attn.qkv.weight": "encoder.blocks.0.attn.qkv.weight",
        "features.0.1.attn.relative_position_bias_table": "encoder.blocks.1.attn.relative_position_bias_table",
        "features.0.1.mlp.0.weight": "encoder.blocks.1.mlp.linear1.weight",
        "decoder_embed.weight": "decoder.embed.weight",
        "decoder_head.0.weight": "decoder.head.0.weight",
    }
    stored = {key[5:-4] for key in case.arrays if key.startswith("grad.") and key.endswith("_val")}
    assert stored == set(ours)
    for theirs, name in ours.items():
        gradient = gradients[name].double().flatten()
        expected = case.arrays[f"grad.{theirs}_val"]
        norm = case.arrays[f"grad.{theirs}_chk"][1]
        deviation = np.abs(gradient[case.arrays[f"grad.{theirs}_idx"]].numpy() - expected).max()
        std = norm / gradient.numel() ** 0.5
        assert deviation / std <= GRADIENT_LIMITS[case.dtype], name
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-5), name


def test_forward_with_validity(case):
    valid = torch.from_numpy(case.arrays["fwdv.valid"])
    with torch.no_grad():
        output = case.network(case.x, valid=valid, noise=case.noise)
    np.testing.assert_array_equal(output["masked"].numpy(), case.arrays["fwdv.mask"].astype(bool))
    if "fwdv.cube" in case.arrays:
        case.check(output["reconstruction"], "fwdv.cube")
    case.check_sum(output["reconstruction"], "fwdv.cube_chk")


def test_other_ways_to_run_the_encoder(case):
    valid = torch.from_numpy(case.arrays["fwdv.valid"])
    with torch.no_grad():
        case.check(case.network.encode_patches(case.x), "feat.full")
        case.check(case.network.encode_patches(case.x, valid), "feat.valid")
        case.check(case.network.encode_volume(case.x), "vol.feat")
        case.check(case.network.forward_features(case.x), "vol.feat")
        case.check(case.network.tokens(case.x), "tokens")


def test_bfloat16_autocast_stays_close():
    case = Case("model_a_loose", torch.float32)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = case.network(case.x, noise=case.noise)
    expected = case.arrays["fwd.cube"]
    rms = np.sqrt(((output["reconstruction"].float().numpy() - expected) ** 2).mean())
    assert rms / expected.std() < 0.02
