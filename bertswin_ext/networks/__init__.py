"""Networks: the masked autoencoder, the segmenter, their baselines, and weights."""

from bertswin_ext.networks.backbone import BertsWinBackbone
from bertswin_ext.networks.features import BertsWinFeatures
from bertswin_ext.networks.joint_locator import JointLocator
from bertswin_ext.networks.lora import add_lora, load_lora, lora_state_dict, merge_lora
from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.presets import (
    bertswin_base,
    bertswin_segmenter_base,
    bertswin_segmenter_tiny,
    bertswin_tiny,
)
from bertswin_ext.networks.pretrained import load_pretrained
from bertswin_ext.networks.record import AdaptationRecord, read_record, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from bertswin_ext.networks.sharding import copy_weights, free_parameters, gather_parameters, shard_network
from bertswin_ext.networks.stem_tuning import StemTuner
from bertswin_ext.networks.vit_mae import ViTMAE
from bertswin_ext.networks.vit_segmenter import ViTSegmenter
from bertswin_ext.networks.weights import (
    WeightReport,
    convert_upstream_state_dict,
    load_encoder,
    load_weights,
    read_checkpoint,
    save_encoder,
)

__all__ = [
    "AdaptationRecord",
    "BertsWinBackbone",
    "BertsWinFeatures",
    "BertsWinMAE",
    "BertsWinSegmenter",
    "JointLocator",
    "StemTuner",
    "ViTMAE",
    "ViTSegmenter",
    "WeightReport",
    "add_lora",
    "bertswin_base",
    "bertswin_segmenter_base",
    "bertswin_segmenter_tiny",
    "bertswin_tiny",
    "convert_upstream_state_dict",
    "copy_weights",
    "free_parameters",
    "gather_parameters",
    "load_encoder",
    "load_lora",
    "load_pretrained",
    "load_weights",
    "lora_state_dict",
    "merge_lora",
    "read_checkpoint",
    "read_record",
    "save_encoder",
    "save_network",
    "shard_network",
]
