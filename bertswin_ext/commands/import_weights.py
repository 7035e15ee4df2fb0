"""Import the authors' published weights."""

from __future__ import annotations

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths

__all__ = ["import_weights"]


@SetParseFns(file=str, bundle=str, axes=str)  # type: ignore[untyped-decorator]
def import_weights(file: str, bundle: str = "pretrain", spacing_mm: float = 0.2, axes: str = "zyx") -> str:
    """Put the weights that the BertsWin authors published into a bundle.

    Run it as: python -m bertswin_ext import_weights FILE --bundle pretrain

    FILE is their masked autoencoder (Zenodo, 10.5281/zenodo.17916932). Earlier weights stay beside the new ones.

    Args:
        file: the authors' checkpoint.
        bundle: pretrain or inference, or the folder of either.
        spacing_mm: edge of the voxels that the network was trained on.
        axes: order of the arrays that it was trained on, zyx or ijk.

    Returns:
        Where the weights are, and what matched.
    """
    from bertswin_ext.release.upstream_weights import import_upstream_weights, place_of_weights

    check_paths(file=file, bundle=bundle)
    check_numbers(spacing_mm=spacing_mm)
    place = place_of_weights(bundle)
    report = import_upstream_weights(file, place, spacing_mm, axes)  # type: ignore[arg-type]
    return "\n".join([str(place), *report.lines()])
