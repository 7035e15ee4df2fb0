"""The documentation site: it builds without a warning, without a network, and nothing is missing in it."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import zlib
from html import unescape
from pathlib import Path

import pytest

from bertswin_ext.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUNDLES = sorted(path.parents[1].name for path in (ROOT / "bundles").glob("*/configs/metadata.json"))
PACKAGES = sorted(path.parent.name for path in (ROOT / "bertswin_ext").glob("*/__init__.py"))
PAGES = sorted(path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md"))
PROGRAMS = [
    (bundle, path.stem)
    for bundle in BUNDLES
    for path in sorted((ROOT / "bundles" / bundle / "configs").glob("*.json"))
    if "bundle_root" in json.loads(path.read_text(encoding="utf-8"))
]


def exported(package):
    """The names in a package's __all__."""
    tree = ast.parse((ROOT / "bertswin_ext" / package / "__init__.py").read_text(encoding="utf-8"))
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    return ast.literal_eval(lists[0]) if lists else []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install bertswin-ext[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(DOCS), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder


def words(page):
    """A page as text, without its tags."""
    body = re.search(r"<article.*?</article>", page.read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", "", body)).split())


def test_every_page_is_built_and_can_be_reached(site):
    assert [page for page in PAGES if not (site / page).is_file()] == []
    linked = set(re.findall(r'href="([^"#]+)"', (site / "index.html").read_text(encoding="utf-8")))
    assert [page for page in PAGES if page not in linked and page != "index.html"] == []


def test_links_and_pictures_lead_somewhere(site):
    broken = []
    for page in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8")):
            path, _, anchor = unescape(target).partition("#")
            file = (page.parent / path.partition("?")[0]) if path else page
            if path.startswith(("http", "data:")):
                continue
            is_found = file.exists() and (not anchor or f'id="{anchor}"' in file.read_text(encoding="utf-8"))
            broken += [] if is_found else [f"{page.relative_to(site)}: {target}"]
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(site):
    loaded = r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+rel="(?!canonical)[^>]+href="(?:https?:)?//'
    assert [page.name for page in site.rglob("*.html") if re.search(loaded, page.read_text(encoding="utf-8"))] == []
    assert "Not a medical device" in (site / "bundles" / "pretrain.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_card_of_every_bundle(site, bundle):
    text = words(site / "bundles" / f"{bundle}.html")
    card = (ROOT / "bundles" / bundle / "docs" / "README.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", card, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    assert headings
    assert [heading for heading in headings if heading.replace("`", "") not in text] == []


@pytest.mark.parametrize(("bundle", "program"), PROGRAMS)
def test_every_knob_has_a_row(site, bundle, program):
    config = json.loads((ROOT / "bundles" / bundle / "configs" / f"{program}.json").read_text(encoding="utf-8"))
    page = (site / "reference" / "configs" / f"{bundle}.html").read_text(encoding="utf-8")
    section = page[page.index(f">{program}.json<a ") :]
    # a program's tables end where the next program begins
    section = re.split(r"<h2>", section)[0]
    listed = re.findall(r'<tr class="row-\w+"><td><p><code.*?</code>', section)
    names = {re.sub(r"<[^>]+>", "", cell) for cell in listed}
    objects = [name for name, value in config.items() if isinstance(value, dict) and "_target_" in value]
    knobs = list(config)[: list(config).index(objects[0])]
    assert [name for name in knobs if name not in names | {"_desc_", "imports", "bundle_root"}] == []


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_configuration_is_described(site, bundle):
    text = words(site / "reference" / "configs" / f"{bundle}.html")
    paths = (ROOT / "bundles" / bundle / "configs").glob("*.json")
    described = {path.name: json.loads(path.read_text(encoding="utf-8")).get("_desc_", "")[:40] for path in paths}
    del described["metadata.json"]
    assert [name for name, start in described.items() if name not in text or start.replace("`", "") not in text] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_with_its_flags(site, name):
    text = words(site / "reference" / "commands.html")
    code = COMMANDS[name].__code__
    section = text[text.index(f"python -m bertswin_ext {name} ") :]
    assert [flag for flag in code.co_varnames[: code.co_argcount] if f"--{flag} " not in section] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_that_is_exported(site, package):
    _, packed = (site / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    known = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    assert (site / "reference" / "api" / f"{package}.html").is_file()
    assert [name for name in exported(package) if f"bertswin_ext.{package}.{name}" not in known] == []


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("networks/backbone.py", "`img_size` must be divisible by patch_size patch_size on every axis, got sizes."),
        ("data/preparation/intensity.py", "values low..high do not look like HU"),
        ("data/stream.py", "The training set is empty. Add volumes to the datalist, or lower `val_fraction`."),
        ("__main__.py", "must be given flags it has, got argument."),
    ],
)
def test_messages_stand_under_their_module(site, module, message):
    text = words(site / "reference" / "error-messages.html")
    section = re.split(r"\S+\.py¶", text[text.index(f"{module}¶") :])[1]
    assert message in section


@pytest.fixture
def extension(monkeypatch):
    """A module of docs/_ext by its name."""
    pytest.importorskip("sphinx", reason="sphinx is not installed: pip install bertswin-ext[docs]")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("raise ValueError(f'size of the volume is {size}')", "ValueError", "size of the volume is {size}"),
        (
            "raise TypeError('two parts of ' + name + ' in one message')",
            "TypeError",
            "two parts of {name} in one message",
        ),
        ("raise errors.VolumeError(listed_under('these are the faults', x))", "VolumeError", "these are the faults{…}"),
        ("raise ValueError(f'must be one of {\", \".join(map(str, KINDS))}')", "ValueError", "must be one of {kinds}"),
        ("logger.warning('%d of the %s were lost', n, what)", "warning", "{…} of the {…} were lost"),
        ("faults = ['the label has other voxels.']", "text", "the label has other voxels."),
    ],
)
def test_messages_are_read_from_the_source(extension, code, kind, text):
    (message,) = extension("message_source").messages_in(f"class A:\n    def b(self):\n        {code}\n")
    assert (message.kind, message.text, message.where) == (kind, text, "A.b")


def test_a_named_part_of_a_message_is_put_in_its_place(extension):
    source = (
        "_REMEDY = 'Train it again.'\nLOW = 16\ndef a():\n    raise ValueError(f'At least {LOW} voxels. {_REMEDY}')\n"
    )
    (message,) = extension("message_source").messages_in(source)
    assert message.text == "At least 16 voxels. Train it again."


@pytest.mark.parametrize(
    "code", ["'''A docstring of many words.'''", "x = 'b c (gi p) -> b gi (c p) one two'", "f('one two three')"]
)
def test_what_is_no_message_is_left_out(extension, code):
    assert extension("message_source").messages_in(f"def a():\n    {code}\n") == []


def test_meanings_come_from_the_tables_of_a_card(extension):
    card = "| knob | default | meaning |\n|---|---|---|\n| `a`, `b` | 1, 2 | both \\| none |\n\nAnd `c` (of `d`).\n"
    card += "\n| overlay | what it does |\n|---|---|\n| `e` | no knob |\n"
    assert extension("bundle_configs").meanings_of(card) == {"a": "both | none", "b": "both | none", "c": "of `d`"}


def test_values_are_shown_in_a_line(extension):
    plain = extension("bundle_configs").plain
    assert [plain(value) for value in ("$@a + 1", "", None, [1, 2])] == ["$@a + 1", '""', "null", "[1, 2]"]
    assert plain({"_target_": "monai.networks.nets.SwinUNETR", "size": 1}) == "SwinUNETR(…)"
    assert plain([{"_target_": "a.B"}]) == "[B()]"


def test_links_lead_to_the_page_that_shows_a_file(extension, tmp_path):
    module = extension("repository_links")
    card = tmp_path / "bundles" / "one" / "docs" / "README.md"
    page = tmp_path / "docs" / "how-to" / "page.md"
    for file in (card, page, tmp_path / "NOTICES"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("", encoding="utf-8")
    text = "[a](bundles/one/docs/README.md#knobs) [b](NOTICES) [c](bundles) [d](https://x.org) [e](none.md)"
    changed = module.with_site_links(text, tmp_path / "README.md", page, module.pages_of_files(tmp_path))
    assert changed == "[a](../bundles/one.md#knobs) [b](../../NOTICES) c [d](https://x.org) [e](none.md)"


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("of (c, *size) and |A|", "of (c, \\*size) and \\|A\\|"),
        ("*word* and ``*args`` and `a|b`", "*word* and ``*args`` and `a|b`"),
        (":param num_tasks: K.", ":param num_tasks: \\K."),
        ("Source: a paper.", "**Source:** a paper."),
        (">>> f(*a)", ">>> f(*a)"),
    ],
)
def test_docstrings_mean_what_they_say(extension, line, changed):
    assert extension("docstring_markup").as_markup([line]) == [changed]
