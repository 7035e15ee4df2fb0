"""Make scans of label maps."""

from __future__ import annotations

from collections.abc import Sequence

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths

__all__ = ["synthesize"]


@SetParseFns(labels=str, output=str)  # type: ignore[untyped-decorator]
def synthesize(
    labels: str,
    output: str,
    count: int = 1,
    seed: int = 0,
    spacing_mm: float | None = None,
    deform_mm: float = 0.0,
    blur_mm: float = 0.0,
    noise_hu: Sequence[float] = (35.0, 80.0),
    density: Sequence[float] = (1.0, 1.0),
) -> str:
    """Turn a label map of a jaw into cone-beam CT: real anatomy, computed tissue, artefacts and noise.

    Run it as: python -m bertswin_ext synthesize --labels jaw_labels.nii.gz --output synthetic

    The values are those of DentalSegmentator: 1 upper skull, 2 mandible, 3 upper teeth, 4 lower teeth, 5 canal.

    Args:
        labels: the label map, of any format that is read.
        output: folder for images, labels and datalist.json.
        count: number of scans, each with other tissue and noise.
        seed: another seed gives others.
        spacing_mm: edge of the scans' voxels, larger than the map's to be quicker; the map's own when not given.
        deform_mm: how far the anatomy of each scan is moved from the map's, 0 to 6; 3 gives another head.
        blur_mm: largest blur of a scan, its standard deviation; 1 is that of an ordinary CT.
        noise_hu: smallest and largest noise in water; "[5,80]" reaches down to an ordinary CT.
        density: smallest and largest factor of the density of bones and teeth, "[0.6,1.1]" say.

    Returns:
        The path of the datalist, and how to prepare it for training.
    """
    from bertswin_ext.data.phantoms.semi_synthetic import write_semi_synthetic
    from bertswin_ext.data.phantoms.variation import Variation

    check_paths(labels=labels, output=output)
    check_numbers(whole=True, count=count, seed=seed)
    check_numbers(spacing_mm=spacing_mm, deform_mm=deform_mm, blur_mm=blur_mm, noise_hu=noise_hu, density=density)
    variation = Variation(spacing_mm, deform_mm, blur_mm, noise_hu, density)
    datalist = write_semi_synthetic(labels, output, count, seed, variation=variation)
    return f"{datalist}\nTo cut out its joints: python -m bertswin_ext prepare --input {datalist} --output STORE"
