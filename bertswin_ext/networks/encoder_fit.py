"""Whether a pre-trained encoder fits a network, in words that say what to set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertswin_ext.networks.architecture import Family
from bertswin_ext.networks.record import AdaptationRecord, plain_size

__all__ = ["input_faults", "size_faults", "stem_faults", "stems_differ", "window_faults", "windows_differ"]

_SIZES: dict[Family, tuple[str, ...]] = {
    "BertsWin": ("in_channels", "patch_size", "hidden_size", "num_layers", "num_heads", "stem_channels"),
    # a ViT has its positions for one size of the volume
    "ViT": ("in_channels", "patch_size", "hidden_size", "num_layers", "num_heads", "mlp_dim", "img_size"),
}


def size_faults(theirs: Mapping[str, Any], ours: Mapping[str, Any], family: Family) -> list[str]:
    """Sizes that both sides tell and that differ.

    Args:
        theirs: arguments that the encoder was built with, as far as known.
        ours: arguments of the network.
        family: what both are.

    Example:
        >>> size_faults({"hidden_size": 768}, {"hidden_size": 96}, "BertsWin")
        ['hidden_size: the encoder has 768, the network 96. Set `--hidden_size 768`.']
    """
    known = [name for name in _SIZES[family] if name in theirs and name in ours]
    return [
        f"{name}: {_both(theirs[name], ours[name])}. Set {_knob(name, theirs[name])}."
        for name in known
        if plain_size(theirs[name]) != plain_size(ours[name])
    ]


def windows_differ(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether the network's windows are not the encoder's; by their number of offsets where one is not known."""
    name = "window_size" if "window_size" in theirs and "window_size" in ours else "bias_rows"
    return plain_size(theirs.get(name)) != plain_size(ours.get(name))


def window_faults(theirs: Mapping[str, Any], ours: Mapping[str, Any], resize_window: bool) -> list[str]:
    """Windows of another size, which need other tables of position bias."""
    if not windows_differ(theirs, ours):
        return []
    if "window_size" not in theirs or "window_size" not in ours:
        return ["window_size: the file does not tell its windows, other than the network's. Export it with a record."]
    if resize_window:
        return []
    return [
        f"window_size: {_both(theirs['window_size'], ours['window_size'])}. Set "
        f"{_knob('window_size', theirs['window_size'])}, or `resize_window=True` to interpolate the position bias."
    ]


def stems_differ(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether the stems are of different kinds; their tensors share names, but not what they mean."""
    return "stem" in theirs and "stem" in ours and theirs["stem"] != ours["stem"]


def stem_faults(theirs: Mapping[str, Any], ours: Mapping[str, Any], allow_fresh_stem: bool) -> list[str]:
    """A stem of another kind, whose weights would stay random."""
    if allow_fresh_stem or not stems_differ(theirs, ours):
        return []
    tune = "tune one on this encoder with bundles/pretrain/configs/tune_stem.json and load its file, "
    remedy = f"{tune if ours['stem'] == 'non_overlapping' else ''}set {_knob('stem', theirs['stem'])}"
    return [
        f"stem: {_both(theirs['stem'], ours['stem'])}; it would stay random, and the blocks would read tokens that "
        f"they never learnt. {remedy[0].upper()}{remedy[1:]}, or `allow_fresh_stem=True` to learn it from the start."
    ]


def input_faults(record: AdaptationRecord | None, configured: AdaptationRecord) -> list[str]:
    """What the encoder expects of its input and the configuration does not give; nothing is known without a record."""
    if record is None:
        return []
    spacing = f"Set {_knob('spacing_mm', record.spacing_mm)}, or pre-train at the configuration's spacing."
    other = "Pre-train with the configuration's scale, or use the version of this package that wrote the file."
    return [
        f"{words}. {spacing if words.startswith('spacing_mm') else other}" for words in record.differences(configured)
    ]


def _both(theirs: Any, ours: Any) -> str:
    """A value on both sides."""
    return f"the encoder has {plain_size(theirs)}, the network {plain_size(ours)}"


def _knob(name: str, value: Any) -> str:
    """How a value is given on the command line."""
    plain = plain_size(value)
    text = "'[" + ",".join(map(str, plain)) + "]'" if isinstance(plain, tuple) else str(plain)
    return f"`--{name} {text}`"
