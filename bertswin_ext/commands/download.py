"""Download a bundle safely."""

from __future__ import annotations

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_paths
from bertswin_ext.commands.switch import switch

__all__ = ["download"]


@SetParseFns(url=str, sha256=str, bundle_dir=str)  # type: ignore[untyped-decorator]
def download(url: str, sha256: str | None = None, bundle_dir: str = ".", overwrite: bool = False) -> str:
    """Fetch the archive of a bundle, check it, and unpack it.

    Run it as: python -m bertswin_ext download --url https://HOST/bertswin_inference_v0.1.0.zip

    A wrong checksum, a torn or unsafe archive, and weights that would run code are refused, and nothing is left
    behind. A bundle's configurations are programs: run it only if you trust who published it.

    Args:
        url: address or path of the archive.
        sha256: its checksum, from a page that you trust; by default that in SHA256SUMS beside the archive; none for
            no check.
        bundle_dir: folder to put the bundle in.
        overwrite: replace a bundle of the same name, everything in it included.

    Returns:
        The bundle's folder.
    """
    from bertswin_ext.release.download import download_bundle

    check_paths(url=url, bundle_dir=bundle_dir)
    if sha256 == "True":
        raise TypeError("`--sha256` must be a checksum, or `none`, got none.")
    folder = download_bundle(url, bundle_dir, sha256, switch("overwrite", overwrite))
    return f"{folder}\nIts configurations are programs: run it only if you trust who published it."
