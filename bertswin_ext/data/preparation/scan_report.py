"""What became of every scan: a page to look through and a table to compute with."""

from __future__ import annotations

import base64
import csv
import html
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bertswin_ext.data.preparation.scan_thumbnail import side_color
from bertswin_ext.errors import times
from bertswin_ext.files import written_whole
from bertswin_ext.voxels import VOXELS

__all__ = ["CSV_COLUMNS", "Record", "totals_line", "verdict_line", "write_report"]

Record = Mapping[str, Any]

CSV_COLUMNS = (
    "scan",
    "patient",
    "verdict",
    "reasons",
    "shape",
    "spacing_mm",
    "orientation",
    "min_hu",
    "max_hu",
    "outside_window",
    "clipped",
    "joints",
    "fov_radius_mm",
    "images",
)

# verdict: heading of its scans; the worst first
_GROUPS = {"refused": "Refused", "notice": "Prepared, with notices", "ok": "Prepared"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_BAR, _PLOT, _LABELS = 4, 56, 14  # of a histogram: width of a bar, height of the bars, height of the labels

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --text: #1b1f24; --quiet: #5c6570; --line: #dde1e6;
  --refused: #c62f35; --notice: #b7791f; --ok: #2f855a; --bars: #7b8794; --window: #3182ce22; --edge: #3182ce; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161a; --card: #1d2025; --text: #e6e8eb; --quiet: #9aa4b0; --line: #33383f;
    --refused: #ff6b6b; --notice: #eab14e; --ok: #5cc48d; --bars: #8d99a6; --window: #63b3ed26; --edge: #63b3ed; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 20px 60px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 34px 0 12px; font-size: 18px; }
h3 { margin: 0; font-size: 15px; overflow-wrap: break-word; }
p { margin: 4px 0; } .quiet, dt, th, figcaption { color: var(--quiet); }
.bar { display: flex; gap: 2px; height: 6px; margin: 12px 0; } .bar span { border-radius: 3px; }
dl { margin: 0; } dd { margin: 0; overflow-wrap: break-word; }
.settings { display: flex; flex-wrap: wrap; gap: 2px 22px; } .settings div { display: flex; gap: 6px; }
.card { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--edge-of-card);
  border-radius: 8px; margin: 0 0 14px; padding: 14px 16px; break-inside: avoid; }
.refused { --edge-of-card: var(--refused); } .notice { --edge-of-card: var(--notice); }
.ok { --edge-of-card: var(--ok); }
.reasons { margin: 6px 0 0; padding-left: 18px; overflow-wrap: break-word; } .reasons li { color: var(--edge-of-card);
  white-space: pre-line; }
.sides { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 10px 22px; margin-top: 10px; }
img { display: block; width: 100%; max-width: 900px; height: auto; border-radius: 5px; background: #14161a; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 2px 14px; margin-top: 6px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin-top: 10px; font-size: 14px; width: 100%;
  min-width: 520px; }
th { font-weight: normal; } th, td { text-align: left; padding: 3px 14px 3px 0; border-top: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
td:nth-child(1), td:nth-child(2), td:nth-child(4) { white-space: nowrap; }
td:last-child { overflow-wrap: anywhere; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px; }
figure { margin: 12px 0 0; } figcaption { font-size: 13px; }
svg { display: block; width: 100%; max-width: 384px; height: auto; overflow: visible; }
svg text { fill: var(--quiet); font-size: 9px; } .bars { fill: var(--bars); } .window { fill: var(--window); }
.edge { stroke: var(--edge); stroke-dasharray: 3 2; }
@media (max-width: 800px) { .sides { grid-template-columns: minmax(0, 1fr); } body { padding: 18px 12px 40px; } }
"""

# the page may load nothing, whatever a name in it looks like
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(records: Iterable[Record], directory: str | Path, summary: Mapping[str, str]) -> tuple[Path, Path]:
    """Write ``report.csv`` and ``report.html``.

    The page needs no other file, no network and no script: pictures are embedded. Refused scans come first, then those
    with notices; within these groups scans are in the order of their names, whatever the order of the records. There is
    no time in the files, so those of an unchanged store keep every byte. In the table, a text that a spreadsheet would
    take for a formula gets a leading apostrophe.

    Args:
        records: what became of each scan. ``scan``, ``name``, ``patient`` and ``verdict`` are needed, all else may be
            missing or None.
        directory: where to write, and what ``thumbnail`` of a record is relative to; a picture that is not there is
            left out.
        summary: settings to show at the head of the page, in words.

    Returns:
        The paths of the table and of the page.

    Raises:
        ValueError: a verdict is none of ``"ok"``, ``"notice"`` and ``"refused"``.

    Example:
        >>> import tempfile
        >>> record = {"scan": "a.nii", "name": "a", "patient": "a", "verdict": "refused", "reasons": ["It is empty."]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table, page = write_report([record], folder, {"Window": "-1011 to 1992 HU"})
        ...     table.read_text().splitlines()[1]
        'a.nii,a,refused,It is empty.,,,,,,,,,,'
    """
    ordered = _ordered(records)
    table, page = Path(directory) / "report.csv", Path(directory) / "report.html"
    with written_whole(table) as temporary, _opened(temporary) as file:
        writer = csv.writer(file)  # ends lines with \r\n: with \n alone, a \r in a name would not be quoted
        writer.writerow(CSV_COLUMNS)
        writer.writerows(_csv_line(record) for record in ordered)
    with written_whole(page) as temporary, _opened(temporary) as file:
        file.writelines(_page(ordered, Path(directory), summary))
    return table, page


def verdict_line(record: Record) -> str:
    """What became of a scan, for the console; characters that a terminal might obey are spelt out.

    Args:
        record: see `write_report`.

    Example:
        >>> verdict_line({"scan": "a/ct.nii.gz", "verdict": "refused", "reasons": ["It is empty."]})
        'refused  a/ct.nii.gz: It is empty.'
    """
    said = " ".join(_reasons(record)) or ", ".join(_joints(record)) or _counted(len(_items(record)), "volume")
    line = f"{record['verdict']:<9}{record['scan']}: {' '.join(said.split())}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def totals_line(records: Iterable[Record]) -> str:
    """How many scans fared how, and what they gave.

    Args:
        records: see `write_report`.

    Example:
        >>> totals_line([{"verdict": "ok", "items": [{"joint": "left"}, {"joint": "right"}]}, {"verdict": "refused"}])
        '2 scans: 1 ok, 1 refused; 2 joints'
    """
    records = list(records)
    fared = _fared(records)
    words = {"ok": "ok", "notice": "with notices", "refused": "refused"}
    parts = ", ".join(f"{fared[verdict]} {word}" for verdict, word in words.items() if fared[verdict]) or "none"
    items = [item for record in records for item in _items(record)]
    joints = sum(1 for item in items if item.get("joint"))
    gave = [_counted(joints, "joint")] if joints or not items else []
    gave += [_counted(len(items) - joints, "whole volume")] if len(items) > joints else []
    return f"{_counted(len(records), 'scan')}: {parts}; {', '.join(gave)}"


# --- records ---


def _ordered(records: Iterable[Record]) -> list[Record]:
    """The worst first, then by name."""
    records = list(records)
    for record in records:
        if record.get("verdict") not in _GROUPS:
            raise ValueError(
                f'The verdict on {record.get("scan")!r} must be "ok", "notice" or "refused", '
                f"got {record.get('verdict')!r}."
            )
    ranks = list(_GROUPS)
    return sorted(records, key=lambda record: (ranks.index(record["verdict"]), record["scan"], record["name"]))


def _fared(records: Sequence[Record]) -> dict[str, int]:
    """How many records have which verdict."""
    return {verdict: sum(1 for record in records if record["verdict"] == verdict) for verdict in _GROUPS}


def _items(record: Record) -> Sequence[Record]:
    return record.get("items") or ()


def _reasons(record: Record) -> list[str]:
    """The reasons, without the path of the scan, which is named beside them anyway."""
    path = re.compile(rf"(\S.*/)?{re.escape(record['scan'])}: ")
    return [path.sub("", reason, count=1) if path.match(reason) else reason for reason in record.get("reasons") or ()]


def _joints(record: Record) -> list[str]:
    return [item["joint"] for item in _items(record) if item.get("joint")]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _opened(path: Path) -> Any:
    """A text file; bytes of a file name that are no text are spelt out."""
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


# --- the table ---


def _csv_line(record: Record) -> list[str]:
    """One line of the table, in the order of `CSV_COLUMNS`."""
    low, high = record.get("values") or ("", "")
    numbers = [low, high, record.get("outside_window"), record.get("clipped")]
    return [
        *(_safe(record[key]) for key in ("scan", "patient", "verdict")),
        _safe(" ".join(record.get("reasons") or ())),
        *(" ".join(f"{number:g}" for number in record.get(key) or ()) for key in ("shape", "spacing_mm")),
        _safe(record.get("orientation") or ""),
        *("" if number is None else str(number) for number in numbers),
        _safe(" ".join(_joints(record))),
        str((record.get("fov") or {}).get("radius_mm", "")),
        _safe("; ".join(item["image"] for item in _items(record))),
    ]


def _safe(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


# --- the page ---


def _page(records: Sequence[Record], directory: Path, summary: Mapping[str, str]) -> Iterator[str]:
    """The page in parts, one picture at a time."""
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>Prepared scans</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    yield _header(records, summary)
    for verdict, heading in _GROUPS.items():
        members = [record for record in records if record["verdict"] == verdict]
        if members:
            yield f"<h2>{heading} ({len(members)})</h2>\n"
        for record in members:
            yield _card(record, directory)
    yield "</body>\n</html>\n"


def _header(records: Sequence[Record], summary: Mapping[str, str]) -> str:
    """Title, totals and settings."""
    parts = [(verdict, count) for verdict, count in reversed(_fared(records).items()) if count]
    bar = "".join(f'<span style="flex: {count}; background: var(--{verdict})"></span>' for verdict, count in parts)
    pairs = "".join(f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in summary.items())
    return (
        f"<header>\n<h1>Prepared scans</h1>\n<p>{_text(totals_line(records))}</p>\n"
        f'<div class="bar">{bar}</div>\n<dl class="settings">{pairs}</dl>\n</header>\n'
    )


def _card(record: Record, directory: Path) -> str:
    """Everything about one scan."""
    reasons = "".join(f"<li>{_text(reason)}</li>" for reason in _reasons(record))
    reasons = f'<ul class="reasons">{reasons}</ul>\n' if reasons else ""
    left, right = _picture(record, directory) + _joint_table(record), _facts(record) + _histogram(record)
    body = f'<div class="sides">\n<div>{left}</div>\n<div>{right}</div>\n</div>' if left else right
    return (
        f'<article class="card {record["verdict"]}" id="{_text(record["name"])}">\n'
        f"<h3>{_text(record['scan'])}</h3>\n{reasons}{body}\n</article>\n"
    )


def _picture(record: Record, directory: Path) -> str:
    """The thumbnail, or nothing where there is none."""
    path = directory / record["thumbnail"] if record.get("thumbnail") else None
    if path is None or not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    alt = f"Axial, coronal and sagittal slice of {record['scan']}"
    return f'<img alt="{_text(alt)}" src="data:image/png;base64,{data}">\n'


def _joint_table(record: Record) -> str:
    """The volumes of the store that a scan gave."""
    if not _items(record):
        return ""
    heads = "".join(f"<th>{head}</th>" for head in ("Joint", "Centre, mm (RAS)", "From", "Voxels", "File"))
    lines = "".join(f"<tr>{_joint_line(item)}</tr>\n" for item in _items(record))
    return f'<div class="scroll"><table>\n<tr>{heads}</tr>\n{lines}</table></div>\n'


def _joint_line(item: Record) -> str:
    """One volume of the store."""
    dot = f'<span class="dot" style="background: {side_color(item.get("joint"))}"></span>'
    center = ", ".join(f"{mm:.1f}" for mm in item.get("center_mm") or ())
    cells = [center, item.get("center_origin") or "", times(item.get("size") or ()), item["image"]]
    cells[3] += ", with a label map" if item.get("label") else ""
    joint = _text(item.get("joint") or "whole volume")
    return f"<td>{dot}{joint}</td>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells)


def _facts(record: Record) -> str:
    """What is known of the scan and of its values; what is not is left out."""
    facts = {"Patient": record["patient"]}
    if record.get("shape"):
        facts["Voxels"] = times(record["shape"])
    if record.get("spacing_mm"):
        facts["Spacing"] = f"{times(record['spacing_mm'], '.4g')} mm"
    if record.get("orientation"):
        facts["Axes"] = record["orientation"]
    if record.get("values"):
        facts["Values"] = "{:g} to {:g} HU".format(*record["values"])
    if (record.get("intensity") or {}).get("method", "hu") != "hu":
        facts["Scaled by"] = "{method}: {scale:.4g} x value {offset:+.4g}".format(**record["intensity"])
    if record.get("fov") or record.get("fov_origin"):
        facts["Field of view"] = _fov(record)
    if _items(record):
        facts["Outside the window"] = _share(record, "outside_window")
        facts["Clipped to int16"] = _share(record, "clipped")
    pairs = "".join(f"<dt>{key}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    return f'<dl class="facts">{pairs}</dl>\n'


def _fov(record: Record) -> str:
    """The field of view and where it was learnt."""
    fov, origin = record.get("fov"), record.get("fov_origin")
    return (f"radius {fov['radius_mm']:.4g} mm" if fov else "not known") + (f", {origin}" if origin else "")


def _share(record: Record, key: str) -> str:
    """A number of voxels and what part of the stored ones they are."""
    count, stored = record.get(key) or 0, sum(math.prod(item.get("size") or (0,)) for item in _items(record))
    if not count:
        return "none"
    percent = 100 * count / stored if stored else math.nan
    part = "less than 0.01" if percent < 0.01 else f"{percent:.2f}"
    return f"{_counted(count, 'voxel')}, {part} %" if stored else _counted(count, "voxel")


def _histogram(record: Record) -> str:
    """The values of the scan as bars with a logarithmic height, and the training window over them."""
    if not record.get("histogram"):
        return ""
    edges, counts = record["histogram"]["edges_hu"], record["histogram"]["counts"]
    width, highest = _BAR * len(counts), math.log1p(max(counts)) or 1.0
    bars = "".join(f"V{_PLOT * (1 - math.log1p(count) / highest):.1f}h{_BAR}" for count in counts)
    low, high = ((hu - edges[0]) / (edges[-1] - edges[0]) * width for hu in (VOXELS.min_hu, VOXELS.max_hu))
    return (
        f'<figure><svg viewBox="0 0 {width} {_PLOT + _LABELS}" role="img" aria-label="Histogram of the values">'
        f'<rect class="window" x="{low:.1f}" width="{high - low:.1f}" height="{_PLOT}"/>'
        f'<path class="bars" d="M0 {_PLOT}{bars}V{_PLOT}z"/>'
        f"{_mark(low, VOXELS.min_hu, 'start')}{_mark(high, VOXELS.max_hu, 'middle')}</svg>"
        "<figcaption>HU of the scan, logarithmic; the training window is tinted</figcaption></figure>\n"
    )


def _mark(x: float, hu: float, anchor: str) -> str:
    """A line across the histogram, with its value below."""
    label = f'<text x="{x:.1f}" y="{_PLOT + 10}" text-anchor="{anchor}">{hu:g}</text>'
    return f'<path class="edge" d="M{x:.1f} 0V{_PLOT}"/>{label}'


def _text(value: object) -> str:
    """A value as text of the page."""
    return html.escape(str(value))
