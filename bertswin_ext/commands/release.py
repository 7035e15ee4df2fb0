"""Build a release."""

from __future__ import annotations

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_paths
from bertswin_ext.commands.switch import switch

__all__ = ["release"]


@SetParseFns(output=str, bundles=str, weights=str, base_url=str, repository=str)  # type: ignore[untyped-decorator]
def release(
    output: str = "dist",
    bundles: str = "pretrain,tmj_segmentation,inference",
    weights: str = "inside",
    base_url: str = "",
    allow_dirty: bool = False,
    repository: str = ".",
) -> str:
    """Build the archives of the bundles, the sdist and wheel of the package, and the lists that describe them.

    Run it as: python -m bertswin_ext release --output dist

    It is built from the last commit alone, and the same commit gives the same bytes.

    Args:
        output: folder to write, new or empty.
        bundles: their folders in bundles, with commas between them.
        weights: inside the archives, or beside them.
        base_url: where the files will lie; needed for weights beside the archives.
        allow_dirty: build although there are changes that are not committed; they are left out.
        repository: a folder of the clone.

    Returns:
        The files.
    """
    from bertswin_ext.release.build import build_release
    from bertswin_ext.release.commit import Commit

    check_paths(output=output, repository=repository)
    names = [name.strip(" '\"()[]") for name in bundles.split(",")]
    commit = Commit.head(repository, switch("allow_dirty", allow_dirty))
    files = build_release(commit, output, [name for name in names if name], weights, base_url)  # type: ignore[arg-type]
    return "\n".join(str(file) for file in files)
