import pytest
import torch

from bertswin_ext.networks import ViTMAE, bertswin_tiny
from bertswin_ext.networks.architecture import architecture_of, family_of, is_head, is_left_behind
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.vit_segmenter import ViTSegmenter

SMALL = {"patch_size": 8, "hidden_size": 48, "num_layers": 3, "num_heads": 4}
VIT = {"in_channels": 2, "img_size": 24, "mlp_dim": 40}


@pytest.mark.parametrize(
    "network",
    [
        bertswin_tiny(),
        bertswin_tiny(stem="non_overlapping", in_channels=2, window_size=2, num_heads=8),
        BertsWinSegmenter(32, **SMALL, window_size=3, stem_channels=8),
        ViTMAE(**SMALL, **VIT),
        ViTSegmenter(**SMALL, **VIT),
    ],
    ids=lambda network: type(network).__name__,
)
def test_the_tensors_tell_what_the_network_was_built_with(network):
    facts = architecture_of(network.state_dict())
    assert len(facts) >= 5
    told = {name: facts[name] for name in facts if name in network.arguments}
    assert told == {name: network.arguments[name] for name in told}
    assert family_of(network.state_dict()) == ("ViT" if "ViT" in type(network).__name__ else "BertsWin")


def test_what_the_tensors_do_not_tell():
    facts = architecture_of(bertswin_tiny(window_size=(2, 2, 3)).state_dict())
    assert "window_size" not in facts
    assert facts["bias_rows"] == 3 * 3 * 5
    assert "img_size" not in architecture_of(ViTMAE(**SMALL, **VIT | {"img_size": (16, 24, 24)}).state_dict())
    assert architecture_of({"conv.weight": torch.zeros(1)}) == {"num_layers": 0}


def test_what_serves_pre_training_only():
    """The class token and the blocks are the encoder's; BertsWin's mask token is, too, but nobody else needs it."""
    names = [
        "decoder.embed.weight",
        "decoder_pred.bias",
        "mask_tokens",
        "mask_token",
        "cls_token",
        "blocks.0.norm1.bias",
    ]
    assert [name for name in names if is_head(name)] == names[:3]
    assert [name for name in names if is_left_behind(name)] == names[:4]
