"""Random noise of a cone-beam scanner: grows with density, falls with dose, and is correlated in space."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor

from bertswin_ext.voxels import VOXELS

__all__ = ["RandCTNoise", "RandCTNoised", "correlated_noise"]

_SPATIAL = (-3, -2, -1)


def correlated_noise(white: torch.Tensor, sigmas_vox: tuple[float, float], mix: float) -> torch.Tensor:
    """White noise to a mixture of a fine and a coarse Gaussian-filtered field, of deviation 1.

    With two independent filtered fields f and c of deviation 1, the mixture is mix f + (1 - mix) c, divided by its
    own deviation. A sum of independent Gaussian fields is a Gaussian field with the sum of their power spectra, so one
    white field and one filter do. The field is periodic: what a filter takes from beyond a face comes from the
    opposite one. So the deviation is 1 up to the faces, and in a volume smaller than the filter.

    Args:
        white: independent standard normal voxels, float32.
        sigmas_vox: deviations of the two Gaussian filters in voxels.
        mix: share of the fine field, 0 to 1.

    Shape:
        (c, i, j, k), also of the result.

    Returns:
        The field, a new tensor.
    """
    shape = white.shape[1:]
    fine, coarse = (_power(sigma, shape, white.device) for sigma in sigmas_vox)
    power = fine.mul_(mix**2).add_(coarse, alpha=(1 - mix) ** 2).div_(mix**2 + (1 - mix) ** 2)
    spectrum = torch.fft.rfftn(white, dim=_SPATIAL).mul_(power.sqrt_())
    return torch.fft.irfftn(spectrum, s=shape, dim=_SPATIAL)


class RandCTNoise(RandomizableTransform):  # type: ignore[misc]
    """Add the noise of a cone-beam scanner to a volume in HU.

    Quantum noise has deviation exp(``density_per_hu`` * HU) / sqrt(dose) times ``unit_hu``, with the texture of
    `correlated_noise`; electronic noise is white and the same everywhere. HU beyond the network's range (metal) get
    the noise of its ends.

    Args:
        prob: how often noise is added.
        dose_range: smallest and largest dose, drawn log-uniformly.
        density_per_hu: growth of the exponent per HU.
        fine_range_vox: range of the deviation of the fine filter, in voxels.
        coarse_range_vox: likewise of the coarse filter.
        mix_range: range of the share of the fine field.
        electronic: deviation of the electronic noise in units of ``unit_hu``.
        unit_hu: HU of one unit of deviation.

    Shape:
        - input: HU (c, i, j, k), array or tensor on any device.
        - output: likewise, float32; the input is not written to, the metadata of a MetaTensor are kept.

    The field is drawn on the device of the volume, from a seed of this transform: repeatable on one kind of device,
    whatever else draws random numbers.

    Raises:
        ValueError: a range that is not finite, falls or leaves its bounds; a volume that is not (c, i, j, k).

    Source: arXiv 2512.21769, section 4, numbers and formula. The unit of the deviation is not given. In HU it would be
    at most 0.7 (1992 HU, dose 800), below the electronic 0.0015 * 578.02 = 0.87 everywhere, and without effect. So the
    unit is the network's, 578.02 HU, as for the electronic part: 6 to 20 HU in water, 27 to 92 at 1000 HU; soft tissue
    of three clinical CT scans shows 7 to 18. For the same reason the mixture has deviation 1: the mere filtered fields
    would have 0.04 to 0.26, depending on the filter, and the dose would not say how noisy a volume is. In the authors'
    code the exponent joins scales of HU and of [0, 1], quantum noise comes to less than 1e-30, and fields keep the
    deviation that the filters leave.

    Example:
        >>> noise = RandCTNoise(prob=1.0, dose_range=(800, 800)).set_random_state(0)
        >>> bool(18 < noise(torch.zeros(1, 64, 64, 64)).std() < 23)
        True
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - MONAI's own declaration

    def __init__(
        self,
        prob: float = 0.5,
        dose_range: tuple[float, float] = (800.0, 9000.0),
        density_per_hu: float = 0.0015,
        fine_range_vox: tuple[float, float] = (0.7, 1.2),
        coarse_range_vox: tuple[float, float] = (1.8, 2.5),
        mix_range: tuple[float, float] = (0.4, 0.8),
        electronic: float = 0.0015,
        unit_hu: float = VOXELS.std_hu,
    ) -> None:
        super().__init__(prob)
        self.dose_range = _range("dose_range", dose_range, low=sys.float_info.min)
        self.fine_range_vox = _range("fine_range_vox", fine_range_vox)
        self.coarse_range_vox = _range("coarse_range_vox", coarse_range_vox)
        self.mix_range = _range("mix_range", mix_range, high=1.0)
        self.density_per_hu = _number("density_per_hu", density_per_hu)
        self.electronic_hu = _number("electronic", electronic) * _number("unit_hu", unit_hu)
        self.unit_hu = unit_hu
        self.dose, self.sigmas_vox, self.mix, self.seed = self.dose_range[0], (0.0, 0.0), 1.0, 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether to add noise, and its dose, filters, mixture and seed."""
        super().randomize(None)
        self.dose = math.exp(self.R.uniform(*np.log(self.dose_range)))
        self.sigmas_vox = (self.R.uniform(*self.fine_range_vox), self.R.uniform(*self.coarse_range_vox))
        self.mix = self.R.uniform(*self.mix_range)
        self.seed = int(self.R.randint(2**31))

    def __call__(self, img: NdarrayOrTensor, randomize: bool = True) -> torch.Tensor:
        """Add noise to a volume in HU; ``randomize=False`` repeats the last draw."""
        if randomize:
            self.randomize()
        volume = convert_to_tensor(img, dtype=torch.float32, track_meta=isinstance(img, MetaTensor))
        if volume.ndim != 4:
            raise ValueError(f"A volume must be (c, i, j, k), got {tuple(volume.shape)}. Add a channel axis.")
        if not self._do_transform:
            return volume
        hu = convert_to_tensor(volume, track_meta=False)
        return convert_to_dst_type(self._noise(hu).add_(hu), volume)[0]

    def _noise(self, hu: torch.Tensor) -> torch.Tensor:
        """Quantum and electronic noise in HU."""
        generator = torch.Generator(hu.device).manual_seed(self.seed)
        texture = correlated_noise(_white(hu, generator), self.sigmas_vox, self.mix)
        return texture.mul_(self._quantum_deviation(hu)).add_(_white(hu, generator), alpha=self.electronic_hu)

    def _quantum_deviation(self, hu: torch.Tensor) -> torch.Tensor:
        """Deviation of the quantum noise in HU."""
        deviation = hu.clamp(VOXELS.min_hu, VOXELS.max_hu).mul_(self.density_per_hu).exp_()
        return deviation.mul_(self.unit_hu / math.sqrt(self.dose))


class RandCTNoised(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """`RandCTNoise` of an item: all keys get the same noise.

    Args:
        keys: keys of volumes in HU.
        prob: how often noise is added to an item.
        allow_missing_keys: skip keys that an item does not have.
        **noise: further arguments of `RandCTNoise`.

    Raises:
        ValueError: as for `RandCTNoise`.

    Example:
        >>> noise = RandCTNoised("image", prob=1.0, dose_range=(2000, 4000)).set_random_state(0)
        >>> noise({"image": torch.zeros(1, 8, 8, 8)})["image"].shape
        torch.Size([1, 8, 8, 8])
    """

    backend = RandCTNoise.backend

    def __init__(self, keys: KeysCollection, prob: float = 0.5, allow_missing_keys: bool = False, **noise: Any) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.noise = RandCTNoise(prob, **noise)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandCTNoised:
        """Seed this transform and the noise that it holds: one stream for both."""
        super().set_random_state(seed, state)
        self.noise.set_random_state(state=self.R)
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw one noise for all keys."""
        self.noise.randomize()
        self._do_transform = self.noise._do_transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add noise to the volumes of an item."""
        self.randomize()
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.noise(item[key], randomize=False)
        return item


def _power(sigma_vox: float, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Power spectrum of a Gaussian filter on the half grid of a real transform, of mean 1 over the full grid."""
    i, j, k = (_axis_power(sigma_vox, size, device) for size in shape)
    return i[:, None, None] * j[:, None] * k[: len(k) // 2 + 1]


def _axis_power(sigma_vox: float, size: int, device: torch.device) -> torch.Tensor:
    """Power spectrum along one axis, of mean 1."""
    power = torch.exp(-((2 * math.pi * sigma_vox * torch.fft.fftfreq(size, device=device)) ** 2))
    return power / power.mean()


def _white(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Independent standard normal voxels."""
    return torch.randn(like.shape, generator=generator, device=like.device)


def _range(name: str, value: tuple[float, float], low: float = 0.0, high: float = math.inf) -> tuple[float, float]:
    """A checked range."""
    ends = tuple(float(end) for end in value)
    if len(ends) != 2 or not np.isfinite(ends).all() or not low <= ends[0] <= ends[1] <= high:
        bounds = "at least 0" if low == 0 else "above 0"
        limit = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"`{name}` must be a finite (low, high) {bounds}{limit}, low <= high, got {value}.")
    return ends[0], ends[1]


def _number(name: str, value: float) -> float:
    """A checked number."""
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be finite and at least 0, got {value}.")
    return value
