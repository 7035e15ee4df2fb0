import pytest
import torch

from bertswin_ext.deployment.autoencoder_inferers import EncodingInferer, MaskingInferer
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE

SIZES = {"patch_size": 8, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "window_size": 2, "stem_channels": 4}
VALID = torch.tensor([[True] * 6 + [False] * 2])


def network(stem="overlapping"):
    torch.manual_seed(0)
    return BertsWinMAE(16, **SIZES, decoder_hidden_size=16, stem=stem).eval()


@pytest.fixture
def cube():
    return torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_by_default_features_are_those_of_the_pre_training(cube):
    encoder = network()
    assert torch.equal(EncodingInferer()(cube, encoder, VALID), encoder.encode_patches(cube, VALID))
    assert not torch.equal(EncodingInferer()(cube, encoder, VALID), encoder.encode_patches(cube))


@torch.no_grad()
def test_over_the_volume(cube):
    encoder = network()
    over = EncodingInferer(per_patch=False)(cube, encoder)
    assert torch.equal(over, encoder.forward_features(cube))
    assert not torch.allclose(over, EncodingInferer()(cube, encoder))


@torch.no_grad()
def test_a_stem_that_stays_in_its_patch_gives_the_same_either_way(cube):
    encoder = network("non_overlapping")
    torch.testing.assert_close(EncodingInferer(per_patch=False)(cube, encoder), EncodingInferer()(cube, encoder))


@torch.no_grad()
def test_masks_follow_the_seed_and_are_those_of_every_cube(cube):
    encoder = network()
    three = MaskingInferer(num_masks=3, seed=5)(cube, encoder)
    assert three["reconstruction"].shape == (3, 1, 16, 16, 16)
    assert three["masked"].sum(dim=1).tolist() == [6, 6, 6]
    assert len({tuple(mask.tolist()) for mask in three["masked"]}) > 1
    other = MaskingInferer(num_masks=1, seed=7)(cube + 1, encoder)
    assert torch.equal(other["masked"][0], three["masked"][2])
    again = MaskingInferer(num_masks=3, seed=5)(cube, encoder)
    assert torch.equal(again["reconstruction"], three["reconstruction"])


@torch.no_grad()
def test_what_is_outside_is_always_hidden(cube):
    result = MaskingInferer(num_masks=4)(cube, network(), VALID)
    assert result["masked"][:, 6:].all()
    # a quarter of the six that are inside
    assert (~result["masked"]).sum(dim=1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_masks": 0}, r"`num_masks` must be a whole number from 1 on, got 0"),
        ({"num_masks": 1.5}, r"`num_masks` must be a whole number from 1 on, got 1\.5"),
        ({"seed": -1}, r"`seed` must be a whole number from 0 on, got -1"),
    ],
)
def test_numbers_that_count_nothing(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskingInferer(**arguments)
