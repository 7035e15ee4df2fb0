"""The authors' HDF5 layout, in and out."""

from __future__ import annotations

import sys
from pathlib import Path

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths, how_to_train
from bertswin_ext.errors import listed

__all__ = ["export_hdf5", "import_hdf5"]


@SetParseFns(input=str, output=str)  # type: ignore[untyped-decorator]
def import_hdf5(
    input: str, output: str, axes: str = "LPS", spacing_mm: float = 0.2, fov_radius_mm: float = 88.0
) -> str:
    """Make a store of a file in the layout of the BertsWin authors.

    Run it as: python -m bertswin_ext import_hdf5 --input tmj.h5 --output store

    Needs `pip install "bertswin-ext[hdf5]"`. The exit status is 0 when every joint was used, 1 when some were not.

    Args:
        input: the HDF5 file.
        output: the store; a new or empty folder, or that of an earlier import of this file.
        axes: where x, y and z of the file's (z, y, x) arrays point to; it does not say so itself.
        spacing_mm: edge of its voxels.
        fov_radius_mm: radius of the scanner's field of view.

    Returns:
        Where the datalist is, and the command that trains on it.
    """
    from bertswin_ext.data.preparation.hdf5_import import import_store

    check_paths(input=input, output=output)
    check_numbers(spacing_mm=spacing_mm, fov_radius_mm=fov_radius_mm)
    datalist, found = import_store(input, output, axes, spacing_mm, progress=True, fov_radius_mm=fov_radius_mm)
    for notice in found.notices:
        sys.stderr.write(f"notice: {notice}\n")
    if found.faults:
        sys.stdout.write(f"{datalist}\n{listed(found.faults, input)}\n")
        sys.exit(1)
    return f"{datalist}\n{how_to_train(datalist.parent, spacing_mm)}"


@SetParseFns(input=str, output=str)  # type: ignore[untyped-decorator]
def export_hdf5(
    input: str, output: str, axes: str = "LPS", fov_radius_mm: float = 88.0, compressed: bool = False
) -> str:
    """Write a store as one file in the layout of the BertsWin authors.

    Run it as: python -m bertswin_ext export_hdf5 --input store --output tmj.h5

    Needs `pip install "bertswin-ext[hdf5]"`.

    Args:
        input: the store.
        output: the HDF5 file, which must not exist yet.
        axes: where x, y and z of the (z, y, x) arrays shall point to.
        fov_radius_mm: radius of the field of view, which all joints must have: the layout has no place for it.
        compressed: smaller, and slower to read a box from.

    Returns:
        Path of the file, and how many joints it holds.
    """
    from bertswin_ext.data.datalist import load_items
    from bertswin_ext.data.preparation import hdf5_export
    from bertswin_ext.data.preparation.store import Store, is_store

    check_paths(input=input, output=output)
    check_numbers(fov_radius_mm=fov_radius_mm)
    if not is_store(Path(input)):
        raise ValueError(f"`input` {input} is not a store. Give the folder that `prepare` or `import_hdf5` wrote.")
    store = Store(input)
    spacing_mm = store.settings()["spacing_mm"]
    items = [item for section in load_items(store.directory / "datalist.json").values() for item in section]
    hdf5_export.export_hdf5(
        items, store.directory, output, axes, spacing_mm, fov_radius_mm=fov_radius_mm, compressed=compressed
    )
    return f"{output}\n{len(items)} joints"
