"""Networks: the masked autoencoder, its baseline, its encoder, and weights."""

from bertswin_ext.networks.features import BertsWinFeatures
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.presets import bertswin_base, bertswin_tiny
from bertswin_ext.networks.vit_mae import ViTMAE
from bertswin_ext.networks.weights import (
    WeightReport,
    convert_upstream_state_dict,
    load_encoder,
    load_weights,
    read_checkpoint,
    save_encoder,
)

__all__ = [
    "BertsWinFeatures",
    "BertsWinMAE",
    "ViTMAE",
    "WeightReport",
    "bertswin_base",
    "bertswin_tiny",
    "convert_upstream_state_dict",
    "load_encoder",
    "load_weights",
    "read_checkpoint",
    "save_encoder",
]
