import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from bertswin_ext.inferers.mirrored import MirroredInferer


@pytest.fixture
def volume():
    return torch.randn(2, 1, 6, 8, 4, generator=torch.Generator().manual_seed(0))


def symmetric_network():
    """A convolution that commutes with every flip."""
    network = nn.Conv3d(1, 3, 3, padding=1)
    with torch.no_grad():
        for dim in (2, 3, 4):
            network.weight.copy_((network.weight + network.weight.flip(dim)) / 2)
    return network.eval()


@pytest.mark.parametrize("axes", [(0,), (2,), (1, 2), (0, 1, 2)])
@torch.no_grad()
def test_a_network_that_commutes_with_flips_gives_what_it_gives_without(volume, axes):
    network = symmetric_network()
    torch.testing.assert_close(MirroredInferer(SimpleInferer(), axes)(volume, network), network(volume))


@pytest.mark.parametrize(("axes", "number"), [((), 1), ((1,), 2), ((0, 2), 4), ((0, 1, 2), 8)])
def test_every_combination_of_the_axes_is_seen_once(volume, axes, number):
    seen = []
    MirroredInferer(SimpleInferer(), axes)(volume, lambda x: seen.append(x) or x)
    assert len(seen) == number
    assert len({tuple(x.flatten().tolist()) for x in seen}) == number


@pytest.mark.parametrize("axis", [0, 1, 2])
@torch.no_grad()
def test_the_mean_of_both_directions_of_an_axis_is_taken(volume, axis):
    torch.manual_seed(0)
    network = nn.Conv3d(1, 2, 3, padding=1)
    expected = (network(volume) + network(volume.flip(axis + 2)).flip(axis + 2)) / 2
    torch.testing.assert_close(MirroredInferer(SimpleInferer(), (axis,))(volume, network), expected)


@torch.no_grad()
def test_the_result_commutes_with_flips_whatever_the_network(volume):
    torch.manual_seed(0)
    inferer, network = MirroredInferer(SimpleInferer()), nn.Conv3d(1, 2, 3, padding=1)
    for dim in (2, 3, 4):
        torch.testing.assert_close(inferer(volume.flip(dim), network), inferer(volume, network).flip(dim))


def test_it_is_the_window_that_is_mirrored(volume):
    shapes = []
    window = SlidingWindowInferer(roi_size=(4, 4, 4), overlap=0)
    result = MirroredInferer(window, (0, 1))(volume, lambda x: shapes.append(x.shape) or x + 1)
    assert set(shapes) == {(1, 1, 4, 4, 4)}
    torch.testing.assert_close(result, volume + 1)


def test_more_arguments_reach_the_network(volume):
    inferer = MirroredInferer(SimpleInferer(), (0,))
    result = inferer(volume, lambda x, factor, shift: factor * x + shift, 2.0, shift=1.0)
    torch.testing.assert_close(result, 2 * volume + 1)


@pytest.mark.parametrize("axes", [(3,), (-1,), (0, 0), ("i",)])
def test_axes_that_are_none_are_refused(axes):
    with pytest.raises(ValueError, match=r"`axes` must be different ones of 0, 1 and 2, got .*Use \(\)"):
        MirroredInferer(SimpleInferer(), axes)


def test_a_network_with_several_outputs_is_refused(volume):
    with pytest.raises(TypeError, match=r"returns one tensor, got tuple. Use axes=\(\) with it"):
        MirroredInferer(SimpleInferer(), (0,))(volume, lambda x: (x, x))


def test_without_axes_any_output_passes(volume):
    assert MirroredInferer(SimpleInferer(), ())(volume, lambda x: {"pred": x})["pred"] is volume
