import pytest
import torch

from bertswin_ext.networks.decoders import ReconstructionDecoder, upsampling_strides


def test_strides_fill_up_from_the_first_stage():
    assert [upsampling_strides(2**d) for d in range(1, 7)] == [
        (2, 1, 1),
        (2, 2, 1),
        (2, 2, 2),
        (4, 2, 2),
        (4, 4, 2),
        (4, 4, 4),
    ]


def gradients(output, decoder, x):
    torch.manual_seed(1)
    return torch.autograd.grad((output * torch.randn_like(output)).sum(), [x, *decoder.parameters()])


@pytest.mark.parametrize("out_channels", [1, 2])
@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_matrix_products_equal_the_convolutions(patch_size, out_channels):
    torch.manual_seed(0)
    decoder = ReconstructionDecoder(12, 10, patch_size, out_channels).double()
    x = torch.randn(2, 1, 2, 3, 12, dtype=torch.float64, requires_grad=True)
    volume, convolved = decoder(x), decoder.head(decoder.embed(x).movedim(-1, 1))
    assert volume.shape == (2, out_channels, patch_size, 2 * patch_size, 3 * patch_size)
    torch.testing.assert_close(volume, convolved)
    for ours, theirs in zip(gradients(volume, decoder, x), gradients(convolved, decoder, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_volume_is_contiguous_and_of_the_dtype_of_autocast():
    decoder = ReconstructionDecoder(12, 10, 8, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        volume = decoder(torch.randn(1, 2, 2, 2, 12))
    assert volume.dtype == torch.bfloat16
    assert volume.is_contiguous()
