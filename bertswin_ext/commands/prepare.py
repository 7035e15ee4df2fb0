"""Turn raw scans into a store."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths, how_to_train

__all__ = ["prepare"]


# a folder may be named 2024_01, which fire would read as a number
@SetParseFns(input=str, output=str, landmarks=str, labels=str)  # type: ignore[untyped-decorator]
def prepare(
    input: str,
    output: str,
    landmarks: str | None = None,
    labels: str | None = None,
    whole_volume: bool = False,
    spacing_mm: float = 0.2,
    roi_size: int = 400,
    intensity: str = "auto",
    mandible: int | Sequence[int] = 1,
    skull: int | Sequence[int] = 2,
    fov_radius_mm: float | None = None,
    workers: int | None = None,
) -> str:
    """Turn raw scans into what training reads: regions round the joints, with a datalist and a report of every scan.

    Run it as: python -m bertswin_ext prepare --input my_scans --output store --landmarks joints.csv

    Killed or interrupted, it goes on when it is run again; unchanged scans are left alone. The exit status is 0 when
    every scan was used, 1 when some were refused (report.html says why), 2 when nothing could be done.

    Args:
        input: a folder of DICOM series, NIfTI, NRRD and MetaImage files, a datalist.json, or one volume.
        output: the store; a new or empty folder, or that of an earlier run.
        landmarks: the joints' centres: a .csv, a 3D Slicer .mrk.json, or a folder of these.
        labels: folder of label maps with the mandible, whose condyles give the centres.
        whole_volume: store whole scans, for crops from anywhere; no centres are needed.
        spacing_mm: edge of a stored voxel in mm.
        roi_size: edge of the region round a joint in stored voxels.
        intensity: auto (HU; scans that do not look like it are refused), hu (whatever they look like) or percentile
            (every scan is scaled by itself).
        mandible: value of the mandible in the label maps, or several as "[2,4]".
        skull: value of the skull, or several.
        fov_radius_mm: radius of the scanner's cylinder, round the middle of each scan; found by itself when not given.
        workers: processes; one for each core, at most 8, when not given.

    Returns:
        Where datalist and report are, and the command that trains on them.
    """
    from bertswin_ext.data.preparation.preparation_settings import PreparationSettings
    from bertswin_ext.data.preparation.prepare import prepare as prepare_scans

    check_paths(input=input, output=output, landmarks=landmarks, labels=labels)
    check_numbers(spacing_mm=spacing_mm, fov_radius_mm=fov_radius_mm)
    check_numbers(whole=True, roi_size=roi_size, workers=workers, mandible=mandible, skull=skull)
    if not isinstance(whole_volume, bool):
        raise TypeError(f"`--whole_volume` is given without a value, or left out; got {whole_volume!r}.")
    settings = PreparationSettings(
        spacing_mm=spacing_mm,
        roi_size=roi_size,
        whole_volume=whole_volume,
        intensity=intensity,
        mandible=_several(mandible),
        skull=_several(skull),
        fov_radius_mm=fov_radius_mm,
    )
    try:
        prepared = prepare_scans(input, output, settings, landmarks, labels, workers)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again: it goes on where it stopped\n")
        sys.exit(130)
    refused = len(prepared.refused)
    text = f"{prepared.report}\n{prepared.datalist}"
    if refused:
        sys.stdout.write(f"{text}\n{refused} of {len(prepared.records)} scans were refused, see the report.\n")
        sys.exit(1)
    return f"{text}\n{how_to_train(prepared.datalist.parent, spacing_mm)}"


def _several(values: int | Sequence[int]) -> tuple[int, ...]:
    """One number or several as a tuple."""
    return (values,) if isinstance(values, int) else tuple(values)
