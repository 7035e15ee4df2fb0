"""Put the folds of a cross-validation together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fire.decorators import SetParseFns

from bertswin_ext.commands.hints import check_numbers, check_paths

__all__ = ["summarize_folds"]


# a folder may be named 2024_01, which fire would read as a number
@SetParseFns(input=str, output=str)  # type: ignore[untyped-decorator]
def summarize_folds(input: str | Sequence[str], output: str, num_folds: int | None = None) -> str:
    """Average the scores of all folds over the patients, with 95 % confidence intervals.

    Run it as: python -m bertswin_ext summarize_folds --input output --output output/folds

    Args:
        input: a folder with fold_0, fold_1, ..., each with its evaluation/scores.csv; or a list of such folders or
            files, as "[run_a,run_b]".
        output: folder for folds.csv and folds.md.
        num_folds: how many folds there must be; as many as the highest number tells when not given.

    Returns:
        The path of the summary, and the mean Dice.
    """
    from bertswin_ext.evaluation.fold_files import find_folds, read_folds
    from bertswin_ext.evaluation.fold_summary import summarize_folds as summarize
    from bertswin_ext.evaluation.fold_summary import write_fold_summary

    check_paths(input=input, output=output)
    check_numbers(whole=True, num_folds=num_folds)
    if num_folds is not None and num_folds < 1:
        raise ValueError(f"`--num_folds` must be at least 1, got {num_folds}.")
    rows = summarize(read_folds(find_folds(_one_or_several(input), num_folds)))
    write_fold_summary(output, rows)
    dice = [
        f"{row.class_name}: Dice {row.mean:.4f} ({row.low:.4f} to {row.high:.4f}), patients: {row.patients}"
        for row in rows
        if row.score == "dice"
    ]
    return "\n".join([str(Path(output) / "folds.md"), *dice])


def _one_or_several(given: str | Sequence[str]) -> str | list[str]:
    """A path, or the paths in brackets."""
    if not isinstance(given, str):
        return [str(entry) for entry in given]
    if not (given.startswith("[") and given.endswith("]")):
        return given
    return [entry.strip(" '\"") for entry in given[1:-1].split(",") if entry.strip()]
