import pytest
import torch

from bertswin_ext.networks.joint_locator import JointLocator
from bertswin_ext.networks.record import AdaptationRecord, read_record, save_network
from bertswin_ext.networks.weights import load_weights


@pytest.fixture
def network():
    torch.manual_seed(0)
    return JointLocator(channels=(4, 8, 8)).eval()


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 14, 3), (1, 5, 17)])
def test_a_volume_of_any_size_gives_a_score_for_every_voxel(network, size):
    assert network(torch.randn(2, 1, *size)).shape == (2, 2, *size)


def test_what_is_padded_is_as_dark_as_the_darkest_voxel(network):
    volume = torch.rand(1, 1, 8, 8, 8) + 3.0
    volume[..., -1] = float(volume.min())
    torch.testing.assert_close(network(volume[..., :-1])[..., :4], network(volume)[..., :4])


def test_a_fresh_network_finds_a_joint_as_likely_as_not(network):
    scores = network(torch.zeros(1, 1, 40, 40, 40)).flatten(2)
    assert (scores.logsumexp(2).sigmoid() - 0.5).abs().max() < 0.4


def test_the_usual_network_is_small():
    network = JointLocator()
    assert sum(p.numel() for p in network.parameters()) * 4 < 1e6


def test_weights_come_back_from_a_file_with_their_record(network, tmp_path):
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 4.0))
    record = read_record(tmp_path / "model.pt")
    again = JointLocator(**record.arguments).eval()
    load_weights(again, tmp_path / "model.pt")
    volume = torch.randn(1, 1, 8, 8, 8)
    assert (record.method, record.spacing_mm) == ("JointLocator", (4.0, 4.0, 4.0))
    torch.testing.assert_close(again(volume), network(volume))


def test_one_level_is_refused():
    with pytest.raises(ValueError, match=r"`channels` must name at least two levels, got \(8,\)\."):
        JointLocator(channels=(8,))
