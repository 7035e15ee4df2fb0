"""Pack a bundle with a trained model."""

from __future__ import annotations

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_paths

__all__ = ["pack"]


@SetParseFns(bundle=str, model=str, output=str)  # type: ignore[untyped-decorator]
def pack(model: str, output: str, bundle: str = "bundles/tmj_segmentation") -> str:
    """Make one folder of a bundle and a trained model, for MONAI Label or for another machine.

    Run it as: python -m bertswin_ext pack --model model.pt --output tmj_segmentation

    Its train.json and inference.json have the sizes and the spacing of the model, so they need no overlay.

    Args:
        model: weights that a run of the bundle wrote.
        output: folder to write, new or empty; MONAI Label calls the model by its name.
        bundle: folder of the bundle.

    Returns:
        The folder.
    """
    from bertswin_ext.runs.pack import pack_bundle

    check_paths(bundle=bundle, model=model, output=output)
    return str(pack_bundle(bundle, model, output))
