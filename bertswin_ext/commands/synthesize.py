"""Make scans of label maps."""

from __future__ import annotations

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths

__all__ = ["synthesize"]


@SetParseFns(labels=str, output=str)  # type: ignore[untyped-decorator]
def synthesize(labels: str, output: str, count: int = 1, seed: int = 0) -> str:
    """Turn a label map of a jaw into cone-beam CT: real anatomy, computed tissue, artefacts and noise.

    Run it as: python -m bertswin_ext synthesize --labels jaw_labels.nii.gz --output synthetic

    The values are those of DentalSegmentator: 1 upper skull, 2 mandible, 3 upper teeth, 4 lower teeth, 5 canal.

    Args:
        labels: the label map, of any format that is read.
        output: folder for images, labels and datalist.json.
        count: number of scans, each with other tissue and noise of the same anatomy.
        seed: another seed gives others.

    Returns:
        The path of the datalist, and how to prepare it for training.
    """
    from bertswin_ext.data.phantoms.semi_synthetic import write_semi_synthetic

    check_paths(labels=labels, output=output)
    check_numbers(whole=True, count=count, seed=seed)
    datalist = write_semi_synthetic(labels, output, count, seed)
    return f"{datalist}\nTo cut out its joints: python -m bertswin_ext prepare --input {datalist} --output STORE"
