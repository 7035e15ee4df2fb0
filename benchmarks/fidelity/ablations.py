"""What `convergence.py` changes in a recipe, one thing at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ABLATION_EPOCHS", "CHANGES", "Change"]

ABLATION_EPOCHS = 16

_L2_ON_ALL = {
    "_target_": "bertswin_ext.losses.MaskedL2Loss",
    "patch_size": "@patch_size",
    "reduction": "samples",
    "score_visible": True,
}
_NO_POSITION = "$torch.nn.init.zeros_(@network_def.position_table) is not None and @network_def.to(@device)"
_NO_SHIFT = "$[setattr(block, 'shifted', False) for block in @network_def.encoder.blocks] and @network_def.to(@device)"


class Change(NamedTuple):
    """One change of a recipe.

    Attributes:
        arm: whose recipe it is.
        group: what is varied.
        words: to what.
        overrides: on the command line.
        overlays: configs of the bundle, after those of the arm.
    """

    arm: str
    group: str
    words: str
    overrides: dict[str, Any]
    overlays: tuple[str, ...] = ()


CHANGES = {
    "mask60": Change("l2", "masking ratio in training", "0.60", {"masking_ratio": 0.6}),
    "mask85": Change("l2", "masking ratio in training", "0.85", {"masking_ratio": 0.85}),
    "mask90": Change("l2", "masking ratio in training", "0.90", {"masking_ratio": 0.9}),
    "blocks2": Change("l2", "masks in training", "blocks of 2^3 tokens", {"mask_block_size": 2}),
    "visible": Change("l2", "tokens in the loss", "visible ones, too", {"loss": _L2_ON_ALL}),
    "window2": Change("l2", "window", "2^3", {"window_size": 2}),
    "window8": Change("l2", "window", "8^3, the whole grid", {"window_size": 8}),
    "unshifted": Change("l2", "window", "4^3, never shifted", {"network": _NO_SHIFT}),
    "layers2": Change("l2", "depth", "2 blocks", {"num_layers": 2}),
    "layers8": Change("l2", "depth", "8 blocks", {"num_layers": 8}),
    "nowhere": Change("l2", "position", "relative bias only", {"network": _NO_POSITION}),
    "strict": Change("l2", "stem", "non-overlapping", {"stem": "non_overlapping"}),
    "ema": Change("l2", "weights", "moving average", {}, ("ema",)),
    "constant": Change("l2", "schedule", "constant after warm-up", {"min_learning_rate": "@learning_rate"}),
    "beta98": Change("l2", "AdamW", "second beta 0.98", {"optimizer::betas": [0.9, 0.98]}),
    "clip": Change("l2", "AdamW", "no clipping", {"max_norm": "$None"}),
    "thirds": Change("structural", "weights of the terms", "1/3 each", {"loss_weights": [0.33, 0.33, 0.34]}),
    "bright": Change("structural", "weights of the terms", "0.6, 0.2, 0.2", {"loss_weights": [0.6, 0.2, 0.2]}),
    "tame": Change("structural", "eps of the structure", "0.05", {"loss_eps": 0.05}),
    "subpatch4": Change("structural", "sub-patches", "4^3", {"subpatch_size": 4}),
}
