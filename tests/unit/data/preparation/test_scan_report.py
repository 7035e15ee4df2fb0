"""The report on scans: what comes first, what is counted, and names that no page or table may take for its own."""

import base64
import csv
import re
from html.parser import HTMLParser

import pytest

from bertswin_ext.data.preparation.scan_report import CSV_COLUMNS, totals_line, verdict_line, write_report

NASTY = '<script>alert("1")</script>&\'é\n,;"quoted".nii'


def item(joint="left", size=(100, 100, 50), **more):
    entry = {"image": f"images/{joint}.nii", "joint": joint, "center_mm": [-48.25, 12, 33.125], "size": list(size)}
    return entry | {"center_origin": "landmark L"} | more


def record(scan="sub-01/ct.nii.gz", verdict="ok", **more):
    entry = {
        "scan": scan,
        "name": re.sub(r"\W", "_", scan),
        "patient": "sub-01",
        "verdict": verdict,
        "reasons": [],
        "shape": [512, 500, 400],
        "spacing_mm": [0.2, 0.2, 0.25],
        "orientation": "LPS",
        "values": [-1024.0, 3071.0],
        "histogram": {"edges_hu": [-1100.0, -50.0, 1000.0, 2050.0, 3100.0], "counts": [1000, 10, 0, 1]},
        "outside_window": 12345,
        "clipped": 0,
        "fov": {"center_mm": [0, 0, 0], "radius_mm": 88.0, "axis": [0, 0, 1]},
        "fov_origin": "estimated from the fill value -1000",
        "items": [item()],
        "thumbnail": None,
    }
    return entry | more


def unread(scan="sub-09/broken.dcm", reason="3 slices are missing. Export the series again."):
    nothing = dict.fromkeys(["shape", "spacing_mm", "orientation", "values", "histogram", "fov", "fov_origin"])
    return record(scan, "refused", reasons=[reason], items=[], outside_window=0, **nothing)


class Page(HTMLParser):
    """What a browser sees: tags with their attributes, and text by the tag around it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "rect", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in ("path", "rect"):
            return
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data))

    def of(self, tag):
        return [text for name, text in self.texts if name == tag]

    def facts(self):
        return dict(zip(self.of("dt"), self.of("dd"), strict=True))


def page_of(tmp_path, *records, summary=None):
    page = Page(write_report(records, tmp_path, summary or {})[1].read_text(encoding="utf-8"))
    assert page.open == []  # every tag is closed
    return page


def table_of(tmp_path, *records):
    path, _ = write_report(records, tmp_path, {})
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- order and totals ---


def test_the_worst_comes_first_and_then_the_name(tmp_path):
    scans = [("b", "ok"), ("d", "refused"), ("c", "notice"), ("a", "ok"), ("e", "notice"), ("a2", "refused")]
    records = [record(scan, verdict) for scan, verdict in scans]
    page = page_of(tmp_path, *records)
    assert page.of("h3") == ["a2", "d", "c", "e", "a", "b"]
    assert page.of("h2") == ["Refused (2)", "Prepared, with notices (2)", "Prepared (2)"]
    assert [line["scan"] for line in table_of(tmp_path, *records)] == page.of("h3")


def test_groups_without_scans_have_no_heading(tmp_path):
    assert page_of(tmp_path, record()).of("h2") == ["Prepared (1)"]


def test_totals():
    both = [item("left"), item("right")]
    records = [record(items=both)] * 9 + [record(verdict="notice", items=[item()])] * 2 + [unread()]
    assert totals_line(records) == "12 scans: 9 ok, 2 with notices, 1 refused; 20 joints"
    assert totals_line([record()]) == "1 scan: 1 ok; 1 joint"
    assert totals_line([unread()]) == "1 scan: 1 refused; 0 joints"
    assert totals_line([record(items=[item(joint=None)])]) == "1 scan: 1 ok; 1 whole volume"
    assert totals_line([record(items=[item(), item(joint=None)])]) == "1 scan: 1 ok; 1 joint, 1 whole volume"
    assert totals_line([]) == "0 scans: none; 0 joints"


def test_the_head_of_the_page(tmp_path):
    page = page_of(tmp_path, record(), unread(), summary={"Regions": "400 voxels", "A & B": "<x>"})
    assert page.of("p") == ["2 scans: 1 ok, 1 refused; 1 joint"]
    assert page.facts()["Regions"] == "400 voxels"
    assert page.facts()["A & B"] == "<x>"


def test_an_unknown_verdict_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"verdict on 'a' must be \"ok\", \"notice\" or \"refused\", got 'fine'"):
        write_report([record("a", "fine")], tmp_path, {})
    assert list(tmp_path.iterdir()) == []


# --- the page ---


def test_everything_about_a_scan_is_on_its_card(tmp_path):
    found = page_of(tmp_path, record(items=[item(size=(100, 100, 50)), item("right", label="labels/right.nii")]))
    assert found.facts() == {
        "Patient": "sub-01",
        "Voxels": "512 x 500 x 400",
        "Spacing": "0.2 x 0.2 x 0.25 mm",
        "Axes": "LPS",
        "Values": "-1024 to 3071 HU",
        "Field of view": "radius 88 mm, estimated from the fill value -1000",
        "Outside the window": "12,345 voxels, 1.23 %",
        "Clipped to int16": "none",
    }
    cells = found.of("td")
    assert cells[:5] == ["left", "-48.2, 12.0, 33.1", "landmark L", "100 x 100 x 50", "images/left.nii"]
    assert cells[5] == "right"
    assert cells[-1] == "images/right.nii, with a label map"


def test_what_is_not_known_is_left_out(tmp_path):
    page = page_of(tmp_path, unread())
    assert page.facts() == {"Patient": "sub-01"}
    assert page.of("li") == ["3 slices are missing. Export the series again."]
    assert not {"svg", "table", "img"} & {tag for tag, _ in page.tags}


def test_a_scan_without_field_of_view_says_so(tmp_path):
    origin = "none found: the whole scan is taken as seen"
    assert page_of(tmp_path, record(fov=None, fov_origin=origin)).facts()["Field of view"] == f"not known, {origin}"
    assert "Field of view" not in page_of(tmp_path, record(fov=None, fov_origin=None)).facts()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "none"),
        (1, "1 voxel, less than 0.01 %"),
        (50, "50 voxels, 0.01 %"),
        (250_000, "250,000 voxels, 50.00 %"),
    ],
)
def test_shares_are_of_the_stored_voxels(tmp_path, count, text):
    facts = page_of(tmp_path, record(outside_window=0, clipped=count)).facts()
    assert facts["Clipped to int16"] == text
    assert facts["Outside the window"] == "none"


def test_the_refused_card_is_marked(tmp_path):
    page = page_of(tmp_path, record("a"), record("b", "notice"), unread("c"))
    classes = [attributes["class"] for tag, attributes in page.tags if tag == "article"]
    assert classes == ["card refused", "card notice", "card ok"]
    style = "".join(page.of("style"))
    assert ".refused { --edge-of-card: var(--refused); }" in style
    assert "prefers-color-scheme: dark" in style


def test_the_histogram_is_logarithmic_and_shows_the_training_window(tmp_path):
    page = page_of(tmp_path, record())
    paths = {a.get("class"): a for tag, a in page.tags if tag in ("path", "rect")}
    tops = [float(top) for top in re.findall(r"V([\d.]+)h4", paths["bars"]["d"])]
    # log(1001), log(11), 0 and log(2) of 56 pixels
    assert tops == pytest.approx([0.0, 36.6, 56.0, 50.4], abs=0.1)
    window = paths["window"]
    assert float(window["x"]) == pytest.approx(16 * (1100 - 1011) / 4200, abs=0.1)
    assert float(window["x"]) + float(window["width"]) == pytest.approx(16 * (1100 + 1992) / 4200, abs=0.1)
    assert page.of("text") == ["-1011", "1992"]


def test_an_empty_histogram_is_flat(tmp_path):
    page = page_of(tmp_path, record(histogram={"edges_hu": [-1100.0, 3100.0], "counts": [0]}))
    bars = next(a["d"] for tag, a in page.tags if a.get("class") == "bars")
    assert bars == "M0 56V56.0h4V56z"


def test_names_are_text_and_never_markup(tmp_path):
    nasty = record(
        NASTY,
        "notice",
        name='" onload="x',
        patient=NASTY,
        reasons=[NASTY],
        orientation="<b>",
        fov_origin="<i>",
        items=[item(joint="<left>", image=NASTY, center_origin=NASTY)],
    )
    page = page_of(tmp_path, nasty, summary={NASTY: NASTY})
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b", "i", "left"})
    assert not any("onload" in attributes for _, attributes in page.tags)
    assert page.of("h3") == [NASTY]
    assert page.of("li") == [NASTY]
    assert page.facts()["Patient"] == NASTY
    assert page.facts()[NASTY] == NASTY
    assert page.of("td") == ["<left>", "-48.2, 12.0, 33.1", NASTY, "100 x 100 x 50", NASTY]


def test_bytes_of_a_name_that_are_no_text_are_spelt_out(tmp_path):
    scan = b"caf\xe9.nii".decode("utf-8", "surrogateescape")
    assert page_of(tmp_path, record(scan, name="a")).of("h3") == ["caf\\udce9.nii"]
    assert table_of(tmp_path, record(scan, name="a"))[0]["scan"] == "caf\\udce9.nii"


def test_pictures_are_embedded_and_nothing_else_is_loaded(tmp_path):
    (tmp_path / "thumbnails").mkdir()
    (tmp_path / "thumbnails" / "a.png").write_bytes(b"\x89PNG picture")
    page = page_of(tmp_path, record(NASTY, thumbnail="thumbnails/a.png", name="a"), unread())
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, data = image["src"].split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG picture"
    assert image["alt"].endswith(NASTY)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not any("href" in a or a.get("src", "data:").split(":")[0] != "data" for _, a in page.tags)
    assert not re.search(r"url\(|@import|https?:", "".join(page.of("style")))


@pytest.mark.parametrize("thumbnail", ["thumbnails/gone.png", "", None])
def test_a_missing_picture_is_left_out(tmp_path, thumbnail):
    page = page_of(tmp_path, record(thumbnail=thumbnail))
    assert page.of("h3") == ["sub-01/ct.nii.gz"]
    assert "img" not in [tag for tag, _ in page.tags]


def test_an_unchanged_store_keeps_every_byte(tmp_path):
    records = [record("a"), record("b", "notice"), unread("c"), record("d")]
    first, second = (
        [path.read_bytes() for path in write_report(order, tmp_path / name, {"x": "y"})]
        for name, order in (("1", records), ("2", records[::-1]))
    )
    assert first == second
    again = write_report(iter(records), str(tmp_path / "1"), {"x": "y"})
    assert again == (tmp_path / "1" / "report.csv", tmp_path / "1" / "report.html")
    assert [path.read_bytes() for path in again] == first
    assert sorted(path.name for path in (tmp_path / "1").iterdir()) == ["report.csv", "report.html"]


# --- the table ---


def test_a_line_of_the_table(tmp_path):
    (line,) = table_of(tmp_path, record(reasons=["One.", "Two."], items=[item("right"), item("left")]))
    assert tuple(line) == CSV_COLUMNS
    assert line == {
        "scan": "sub-01/ct.nii.gz",
        "patient": "sub-01",
        "verdict": "ok",
        "reasons": "One. Two.",
        "shape": "512 500 400",
        "spacing_mm": "0.2 0.2 0.25",
        "orientation": "LPS",
        "min_hu": "-1024.0",
        "max_hu": "3071.0",
        "outside_window": "12345",
        "clipped": "0",
        "joints": "right left",
        "fov_radius_mm": "88.0",
        "images": "images/right.nii; images/left.nii",
    }


def test_what_is_not_known_is_empty_in_the_table(tmp_path):
    (line,) = table_of(tmp_path, unread() | {"outside_window": None, "clipped": None})
    known = {"scan", "patient", "verdict", "reasons"}
    assert {column for column, value in line.items() if value} == known


def test_the_table_survives_commas_quotes_and_line_breaks(tmp_path):
    name = NASTY + "\r\n\n"
    lines = table_of(tmp_path, record(name, patient=name, reasons=[name + "\r."]), record("z"))
    assert [lines[0][column] for column in ("scan", "patient", "reasons")] == [name, name, name + "\r."]
    assert lines[1]["scan"] == "z"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_text_of_the_table_is_a_formula(tmp_path, start):
    text = f"{start}cmd|' /C calc'!A0"
    found = record(text, patient=text, reasons=[text], orientation=text, items=[item(joint=text, image=text)])
    (line,) = table_of(tmp_path, found)
    for column in ("scan", "patient", "reasons", "orientation", "joints", "images"):
        assert line[column] == f"'{text}", column
    assert line["min_hu"] == "-1024.0"  # numbers stay numbers


# --- the console ---


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (unread(), "refused  sub-09/broken.dcm: 3 slices are missing. Export the series again."),
        (record(verdict="notice", reasons=["One.", "Two."]), "notice   sub-01/ct.nii.gz: One. Two."),
        (record(items=[item("right"), item("left")]), "ok       sub-01/ct.nii.gz: right, left"),
        (record(items=[item(joint=None)]), "ok       sub-01/ct.nii.gz: 1 volume"),
        (unread(reason="2 faults:\n  - a\n  - b"), "refused  sub-09/broken.dcm: 2 faults: - a - b"),
        (
            unread("a\x1b[2J\nb\udce9 é"),
            "refused  a\\x1b[2J\\nb\\udce9 é: 3 slices are missing. Export the series again.",
        ),
    ],
)
def test_the_line_for_the_console(given, line):
    assert verdict_line(given) == line


def test_the_scan_is_not_named_twice():
    record = {
        "scan": "a/ct.nii.gz",
        "verdict": "refused",
        "reasons": ["/data/my scans/a/ct.nii.gz: is empty: 0 bytes."],
    }
    assert verdict_line(record) == "refused  a/ct.nii.gz: is empty: 0 bytes."
    other = {**record, "reasons": ["/labels/a_ct.nii.gz: is empty."]}
    assert verdict_line(other) == "refused  a/ct.nii.gz: /labels/a_ct.nii.gz: is empty."
