import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch.utils._python_dispatch import TorchDispatchMode

from bertswin_ext.inferers.mirrored import MirroredInferer
from bertswin_ext.inferers.sliding_window import sliding_window
from bertswin_ext.voxels import VOXELS

AIR = (VOXELS.min_hu - VOXELS.mean_hu) / VOXELS.std_hu
SHAPES = [(40, 24, 17), (16, 16, 16), (9, 30, 5)]


class Largest(TorchDispatchMode):
    """Remember the largest tensors that operations within a network make."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, (0.5, 0.6, 0.0)])
def test_a_constant_network_gives_a_constant(shape, overlap):
    result = sliding_window(16, 8, overlap=overlap)(
        torch.randn(1, 1, *shape), lambda x: torch.full((1, 3, *x.shape[2:]), 0.7)
    )
    assert result.shape == (1, 3, *shape)
    torch.testing.assert_close(result, torch.full_like(result, 0.7))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_a_network_that_hands_its_input_on_gives_the_volume(shape, mirror_axes):
    volume = torch.randn(2, 1, *shape)
    inferer = sliding_window((16, 8, 24), 8, sw_batch_size=3, mirror_axes=mirror_axes)
    # MONAI weights the network's output in place, and a window is a view of the volume
    torch.testing.assert_close(inferer(volume, lambda x: x.clone()), volume)


def test_a_volume_smaller_than_the_window_lies_in_air():
    seen = []
    volume = torch.zeros(1, 1, 4, 16, 6)
    result = sliding_window(16, 8)(volume, lambda x: seen.append(x) or x + 1)
    assert result.shape == volume.shape
    (window,) = seen
    inside = torch.zeros(16, 16, 16, dtype=torch.bool)
    inside[6:10, :, 5:11] = True
    assert torch.equal(window[0, 0], torch.where(inside, 0.0, AIR))
    assert pytest.approx(-1.7125, abs=1e-4) == AIR


def test_what_lies_outside_can_be_chosen():
    seen = []
    sliding_window(8, 8, cval=-3.0)(torch.zeros(1, 1, 8, 8, 4), lambda x: seen.append(x) or x + 1)
    assert seen[0].min() == -3.0


def test_a_window_counts_more_in_its_middle():
    """The second window says 1, the first 0: what they share goes over from one to the other."""
    calls = []
    result = sliding_window((16, 8, 8), 8)(
        torch.zeros(1, 1, 24, 8, 8), lambda x: calls.append(x) or torch.full_like(x, len(calls) - 1.0)
    )
    line = result[0, 0, :, 4, 4]
    assert len(calls) == 2
    assert torch.equal(line[:8], torch.zeros(8))
    assert torch.equal(line[16:], torch.ones(8))
    assert (line[8:16].diff() > 0).all()
    torch.testing.assert_close(line[8:16], 1 - line[8:16].flip(0))


@pytest.mark.parametrize(("edge", "windows"), [(16, 1), (32, 27), (64, 343)])
def test_a_larger_volume_means_more_windows_not_larger_ones(edge, windows):
    calls, largest = [], Largest()

    def network(x):
        calls.append(x.shape)
        with largest:
            return torch.nn.functional.avg_pool3d(x, 3, 1, 1)

    sliding_window(16, 8)(torch.zeros(1, 1, edge, edge, edge), network)
    assert len(calls) == windows
    assert set(calls) == {(1, 1, 16, 16, 16)}
    assert largest.numel == 16**3


@pytest.mark.parametrize(("number", "sizes"), [(1, {1}), (4, {4})])
def test_several_windows_go_through_the_network_together(number, sizes):
    found = set()
    sliding_window(8, 8, sw_batch_size=number, overlap=0)(
        torch.zeros(1, 1, 16, 16, 16), lambda x: found.add(len(x)) or x + 1
    )
    assert found == sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("edge", "place"), [(8, "cuda"), (9, "cpu")])
def test_large_volumes_are_put_together_in_main_memory(edge, place):
    volume = torch.zeros(1, 1, 8, 8, edge, device="cuda")
    assert sliding_window(8, 8, cpu_thresh=8**3)(volume, lambda x: x + 1).device.type == place


def test_the_plain_inferer_is_monais_own():
    inferer = sliding_window(48, 16, overlap=0.25, device="cpu", sw_device="cpu", cpu_thresh=1000)
    assert type(inferer) is SlidingWindowInferer
    assert (inferer.roi_size, inferer.overlap, inferer.mode) == ((48, 48, 48), (0.25, 0.25, 0.25), "gaussian")
    assert (inferer.device, inferer.sw_device, inferer.cpu_thresh) == ("cpu", "cpu", 1000)
    assert not inferer.progress
    assert inferer.roi_weight_map.shape == (48, 48, 48)


def test_mirroring_is_a_knob():
    inferer = sliding_window(16, 8, mirror_axes=[1, 2])
    assert isinstance(inferer, MirroredInferer)
    assert inferer.axes == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roi_size": 50}, r"multiple of the network's patch of 16 .*got 50 x 50 x 50\. Use 48 x 48 x 48"),
        ({"roi_size": (48, 40, 4)}, r"got 48 x 40 x 4\. Use 48 x 32 x 16"),
        ({"roi_size": 0}, r"got 0 x 0 x 0\. Use 16 x 16 x 16"),
        ({"roi_size": (-16, 16, 16)}, "got -16 x 16 x 16"),
        ({"patch_size": 0}, "`patch_size` must be at least 1, got 0"),
        ({"overlap": 1.0}, r"`overlap` must be at least 0 and below 1, got 1\.0"),
        ({"overlap": (0.5, -0.1, 0.5)}, r"got \(0\.5, -0\.1, 0\.5\)"),
        ({"sw_batch_size": 0}, "`sw_batch_size` must be at least 1, got 0"),
        ({"mirror_axes": (2, 3)}, "`axes` must be different ones"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sliding_window(**{"roi_size": 48, "patch_size": 16} | arguments)
