"""The bundle's configs, as ``monai.bundle run`` reads them, for what needs a part of a run only."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = ["CONFIGS", "parser_of"]

BUNDLE = Path(__file__).parents[2] / "bundles" / "pretrain"
CONFIGS = BUNDLE / "configs"


def parser_of(files: Sequence[str | Path], overrides: Mapping[str, Any]) -> ConfigParser:
    """Configs, the later ones over the earlier, and what would be set on the command line over all."""
    if str(BUNDLE) not in sys.path:
        sys.path.append(str(BUNDLE))  # where the module lies that says where the bundle is
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update(dict(overrides))
    return parser
