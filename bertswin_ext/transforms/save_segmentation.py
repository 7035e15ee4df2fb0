"""Label maps as files that do not write over each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged

__all__ = ["SaveSegmentationd"]


class SaveSegmentationd(SaveImaged):  # type: ignore[misc]
    """`monai.transforms.SaveImaged` for label maps of items: ``<output_dir>/<folder>/<image>_<joint>_seg.nii.gz``.

    Two joints of one scan, and scans of the same name in two folders, get files of their own. Without a ``center_mm`` a
    label is that of the whole scan, and its name has no joint.

    Args:
        keys: keys of the label maps (1, i, j, k).
        output_dir: folder of the files.

    Example:
        >>> import tempfile, torch
        >>> from monai.data import MetaTensor
        >>> label = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "scans/head.nii.gz"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save = SaveSegmentationd("pred", folder)
        ...     _ = save({"pred": label, "center_mm": [0.0, 0.0, 0.0], "joint": "left", "folder": "clinic"})
        ...     print([str(path.relative_to(folder)) for path in Path(folder).rglob("*.gz")])
        ['clinic/head_left_seg.nii.gz']
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path) -> None:
        self.arguments: dict[str, Any] = {
            "keys": keys,
            "resample": False,
            "separate_folder": False,
            "output_dtype": np.uint8,
            "print_log": False,
        }
        self.root = Path(output_dir)
        super().__init__(output_dir=output_dir, output_postfix="seg", **self.arguments)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the label maps of an item."""
        joint = data.get("joint") if data.get("center_mm") is not None else None
        save = SaveImaged(
            output_dir=self.root / str(data.get("folder", "")),
            output_postfix=f"{joint}_seg" if joint else "seg",
            **self.arguments,
        )
        return dict(save(data))
