import torch

from bertswin_ext.networks import BertsWinFeatures, bertswin_tiny


def test_one_tensor_in_one_tensor_out():
    network = bertswin_tiny(img_size=32, window_size=2)
    x = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(BertsWinFeatures(network)(x), network.encode_patches(x))
    assert torch.equal(BertsWinFeatures(network, per_patch=False)(x), network.forward_features(x))
