"""The house rules that code alone can check: who may import whom, a test file for every module, no assert, no print."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bertswin_ext"
TESTS = ROOT / "tests" / "unit"

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
GROUND_FLOOR = tuple(
    f"bertswin_ext.{name}"
    for name in (
        "connected_parts",
        "errors",
        "files",
        "geometry",
        "hardware",
        "stored_volume",
        "versions",
        "voxels",
        "workers",
    )
)
LOWER_FLOOR = ("networks", "losses", "transforms", "optimizers", "inferers", "data")
IGNITE = ("ignite", "monai.engines", "monai.handlers")

# modules whose tests stand in the file of the module that they serve
TESTED_WITH = {
    "commands/check.py": "test_main.py",
    "commands/phantom.py": "test_main.py",
    "commands/prepare.py": "test_main.py",
    "data/phantoms/phantom_anatomy.py": "data/phantoms/test_phantom.py",
    "losses/masked.py": "losses/test_losses.py",
    "losses/reconstruction.py": "losses/test_losses.py",
    "losses/structure.py": "losses/test_losses.py",
    "networks/presets.py": "networks/test_masked_autoencoder.py",
    "optimizers/checks.py": "optimizers/test_conductor_messages.py",
}


def tree_of(module):
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"), filename=str(module))


def imports_of(tree):
    """Full names of what is imported anywhere in a module, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # no relative imports here, see below
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def forbidden(floor, names):
    """Imports that a module of a package must not have."""
    allowed = (*GROUND_FLOOR, f"bertswin_ext.{floor}")
    others = [name for name in names if inside(name, ["bertswin_ext"]) and not inside(name, allowed)]
    return others + [name for name in names if inside(name, IGNITE)]


def ids(module):
    return str(module)


def test_there_are_modules():
    assert len(MODULES) > 30
    assert {module.parts[0] for module in MODULES} >= {"networks", "losses", "transforms", "data", "handlers", "runs"}


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] in LOWER_FLOOR], ids=ids)
def test_the_lower_floor_keeps_to_itself(module):
    assert forbidden(module.parts[0], list(imports_of(tree_of(module)))) == []


@pytest.mark.parametrize("name", GROUND_FLOOR)
def test_the_ground_floor_imports_nothing_above_it(name):
    names = [n for n in imports_of(tree_of(Path(f"{name.split('.')[1]}.py"))) if not inside(n, GROUND_FLOOR)]
    assert [n for n in names if inside(n, ["bertswin_ext", *IGNITE, "monai"])] == []


def test_optimizers_need_torch_only():
    names = [name for m in MODULES if m.parts[0] == "optimizers" for name in imports_of(tree_of(m))]
    assert [name for name in names if inside(name, ["monai", "numpy"])] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from bertswin_ext.losses import MaskedL2Loss", ["bertswin_ext.losses.MaskedL2Loss"]),
        ("import bertswin_ext.handlers.resume", ["bertswin_ext.handlers.resume"]),
        ("from bertswin_ext import losses", ["bertswin_ext.losses"]),
        ("def f():\n    from ignite.engine import Events", ["ignite.engine.Events"]),
        ("from monai.engines import PrepareBatch", ["monai.engines.PrepareBatch"]),
        ("from bertswin_ext.networks.stems import PatchStem", []),
        ("from bertswin_ext.voxels import VOXELS\nfrom bertswin_ext import files\nimport torch", []),
    ],
)
def test_the_test_itself(line, found):
    assert forbidden("networks", list(imports_of(ast.parse(line)))) == found


@pytest.mark.parametrize("module", MODULES, ids=ids)
def test_no_relative_imports(module):
    nodes = [node for node in ast.walk(tree_of(module)) if isinstance(node, ast.ImportFrom)]
    assert [node.lineno for node in nodes if node.level] == []


@pytest.mark.parametrize("module", MODULES, ids=ids)
def test_no_assert_and_no_print(module):
    """An assert vanishes under ``python -O``; print bypasses the log."""
    nodes = list(ast.walk(tree_of(module)))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


@pytest.mark.parametrize("module", [m for m in MODULES if m.name != "__init__.py"], ids=ids)
def test_every_module_has_a_test_file(module):
    mirrored = module.with_name(f"test_{module.stem.strip('_')}.py")
    test = TESTS / TESTED_WITH.get(module.as_posix(), mirrored)
    assert test.is_file(), f"write {mirrored}"


def test_the_exceptions_are_still_exceptions():
    """An entry whose module has got a test file of its own, or is gone, is taken off the list."""
    stale = [
        module
        for module in map(Path, TESTED_WITH)
        if not (PACKAGE / module).is_file() or (TESTS / module.with_name(f"test_{module.name}")).is_file()
    ]
    assert stale == []


@pytest.mark.parametrize("folder", sorted({module.parent for module in MODULES}), ids=ids)
def test_every_package_exports_what_exists(folder):
    tree = tree_of(folder / "__init__.py")
    exported = [
        element.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for element in node.value.elts
    ]
    imported = [name.rsplit(".", 1)[1] for name in imports_of(tree)]
    assert sorted(exported) == sorted(imported)
