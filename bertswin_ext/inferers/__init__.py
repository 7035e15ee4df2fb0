"""How a network is applied to whole volumes."""

from bertswin_ext.inferers.mirrored import MirroredInferer
from bertswin_ext.inferers.sliding_window import sliding_window

__all__ = ["MirroredInferer", "sliding_window"]
