"""What `convergence.py` trains: the arms, each a list of the bundle's configs and what is set on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fidelity.ablations import CHANGES
from fidelity.configs import CONFIGS

__all__ = ["ARMS", "BASELINE", "TUNING_EPOCHS", "TUNING_SEED", "Arm", "Job"]

BASELINE = "vit_l2"
TUNING_EPOCHS, TUNING_SEED = 6, 100
_WARM_UP, _VALIDATIONS = 0.05, 4

_ADAMW_RATES = (5e-4, 1e-3, 2e-3)
_LION_RATES = (1.5e-5, 3e-5, 6e-5)
# the baseline's longest runs are what all is measured by, so its rate is chosen at such a length
_TWICE = (TUNING_EPOCHS, 64)
_SHORT, _LONG = (2, 4, 8, 16, 32), (4, 8, 16, 32, 64, 128)
# as many parameters as BertsWin, in the proportions of the paper's decoder to its encoder
_VIT = {
    "loss": "@l2",
    "network_def::decoder_hidden_size": 96,
    "network_def::decoder_mlp_dim": 384,
    "network_def::decoder_num_layers": 2,
    "network_def::decoder_num_heads": 6,
}
# about the FLOPs of the ViT-MAE, here and with the paper's twelve blocks
_LAST = {"loss": "@l2", "mask_token_updates": ["none", "none", "none", "full"]}
_LAST_TWO = {"mask_token_updates": [*10 * ["none"], "full", "full"]}
_OTHER = {"loss": "@l2", "mask_token_updates": ["none", "attention", "none", "attention"]}
_OTHERS = {"mask_token_updates": 6 * ["none", "attention"]}


class Arm(NamedTuple):
    """How to start a run.

    Attributes:
        network: in words, as the next two.
        update: optimizer and what decides between losses.
        loss: what is trained on.
        overlays: configs of the bundle, beyond those of all arms.
        overrides: what is set on the command line besides.
        rates: learning rates to choose from.
        horizons: epochs of its runs, multiples of four or two; each has a schedule of its own.
        passes: backward passes of a sample.
        large: what is set instead of ``overrides`` for the paper's network.
        tuning: epochs of the runs that choose a learning rate, the last of which decide.
    """

    network: str
    update: str
    loss: str
    overlays: tuple[str, ...]
    overrides: dict[str, Any]
    rates: tuple[float, ...]
    horizons: tuple[int, ...] = _SHORT
    passes: int = 1
    large: Mapping[str, Any] = MappingProxyType({})
    tuning: tuple[int, ...] = (TUNING_EPOCHS,)

    @property
    def label(self) -> str:
        """Its name on the page."""
        return ", ".join([self.network, self.update, self.loss])


ARMS = {
    BASELINE: Arm("ViT-MAE", "AdamW", "L2", ("vit_mae", "adamw"), _VIT, _ADAMW_RATES, _LONG, tuning=_TWICE),
    "l2": Arm("BertsWin", "AdamW", "L2", ("adamw",), {"loss": "@l2"}, _ADAMW_RATES),
    "sparse_last": Arm(
        "BertsWin, mask tokens in the last block", "AdamW", "L2", ("adamw",), _LAST, _ADAMW_RATES, large=_LAST_TWO
    ),
    "sparse_every": Arm(
        "BertsWin, mask tokens in every other attention", "AdamW", "L2", ("adamw",), _OTHER, _ADAMW_RATES, large=_OTHERS
    ),
    "structural": Arm("BertsWin", "AdamW", "structural", ("adamw",), {}, (2.5e-4, *_ADAMW_RATES)),
    "lion_lars": Arm("BertsWin", "LionLARS", "structural", ("single_loss",), {}, _LION_RATES),
    "conductor": Arm("BertsWin", "conductor and LionLARS", "three terms", (), {}, _LION_RATES, passes=3),
}


class Job(NamedTuple):
    """One run: of an arm, or of one of `CHANGES` to its recipe."""

    arm: str
    epochs: int
    rate: float
    seed: int
    change: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        changed = f"_{self.change}" if self.change else ""
        return f"{self.arm}_epochs{self.epochs}_rate{self.rate:g}{changed}_seed{self.seed}"

    @property
    def files(self) -> list[str]:
        """Configs, in their order."""
        more = CHANGES[self.change].overlays if self.change else ()
        names = ("train", "convergence", "fidelity", *ARMS[self.arm].overlays, *more)
        return [str(CONFIGS / f"{name}.json") for name in names]

    @property
    def overrides(self) -> dict[str, Any]:
        """What is set on the command line, but for the folders."""
        own = {
            "learning_rate": self.rate,
            "epochs": self.epochs,
            "warmup_epochs": _WARM_UP * self.epochs,
            "val_interval": max(1, self.epochs // _VALIDATIONS),
            "seed": self.seed,
        }
        return ARMS[self.arm].overrides | own | (CHANGES[self.change].overrides if self.change else {})
