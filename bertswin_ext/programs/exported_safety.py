"""What a ``.pt2`` file may hold: `torch.export.load` would unpickle, evaluate and call more than a network needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from bertswin_ext.programs.archive import archive_records

__all__ = ["refuse_code"]

_GRAPH = "models/model.json"
_PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[\w.]+|extra/[\w.]+|models/model\.json"
    r"|data/sample_inputs/model\.pt|data/weights/(model_weights_config\.json|weight_\d+)"
    r"|data/constants/(model_constants_config\.json|tensor_\d+)"
)
# operations on tensors and sizes; anything else under `torch.` could be a function of Python's own
_OPERATIONS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b)\w+(\.\w+)?|torch\.sym_(int|float|max|min|not|sum|sqrt)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# torch writes Python with these names in it and compiles that
_NAME = re.compile(r"[\w.+\-]*")
_TEXT_ARGUMENT = re.compile(r"[\w.,\-> ]*")
_SYMBOLS = re.compile(r"'?\b[su]\d+\b'?|\b(Symbol|Integer|Rational|Mul|Add|Pow|Mod|Min|Max|FloorDiv|CeilDiv)\b")
_ASSUMPTIONS = re.compile(r"\b(positive|integer|nonnegative|evaluate)=(True|False)\b")
_ARITHMETIC = re.compile(r"[\d\s(),+\-*/]*")
_TREE_TYPES = ("builtins.tuple", "builtins.list", "builtins.dict", None)
_TREE_CONTEXTS = ("null", "[]", None)


def refuse_code(data: bytes) -> None:
    """Refuse an archive that is more than tensors and a graph of operations on them.

    Args:
        data: the file.

    Raises:
        ValueError: it is torn, or has pickled objects, compiled libraries, calls of other functions than torch's
            operations, or text that would be evaluated as Python.
    """
    records = archive_records(data)
    strange = [name for name in records if not _RECORDS.fullmatch(name)]
    lacking = [name for name in (_GRAPH, *_PAYLOADS) if name not in records]
    if strange or lacking:
        raise ValueError(
            f"it holds {strange[0]!r}, which no exported network needs." if strange else f"it has no {lacking[0]!r}."
        )
    if records.get(_SAMPLES):
        raise ValueError(f"it holds sample inputs ({_SAMPLES}), a pickle.")
    for name in _PAYLOADS:
        _refuse_pickles(json.loads(records[name]), name)
    _refuse_calls(json.loads(records[_GRAPH]))


def _refuse_pickles(config: Any, name: str) -> None:
    """Every tensor is plain bytes."""
    for key, payload in config["config"].items():
        if payload["use_pickle"] is not False:
            raise ValueError(f"{key!r} in {name} is a pickle, not a tensor.")


def _refuse_calls(program: Any) -> None:
    """Every text of the graph is a name, an operation, or arithmetic on sizes."""
    if program.get("guards_code"):
        raise ValueError(f"{_GRAPH} has guards, which are Python code.")
    for key, text in _texts(program):
        if not _is_harmless(key, text):
            raise ValueError(f"{key!r} in {_GRAPH} is {text[:80]!r}, which is no operation on tensors.")


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a tree, keys of dictionaries among them, each with the key that it stands under."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield "name", name
            yield from _texts(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)


def _is_harmless(key: str, text: str) -> bool:
    """Whether a text can do nothing but what its key says."""
    if key in ("target", "as_operator"):
        return bool(_OPERATIONS.fullmatch(text))
    if key == "expr_str":
        return bool(_ARITHMETIC.fullmatch(_SYMBOLS.sub("", _ASSUMPTIONS.sub("", text))))
    if key in ("in_spec", "out_spec"):
        return _is_plain_tree(json.loads(text))
    return bool((_TEXT_ARGUMENT if key == "as_string" else _NAME).fullmatch(text))


def _is_plain_tree(spec: Any) -> bool:
    """Whether a structure of inputs is made of tuples, lists and dictionaries."""
    if isinstance(spec, list):
        return all(map(_is_plain_tree, spec))
    if not isinstance(spec, dict):
        return isinstance(spec, int)
    known = spec.get("type") in _TREE_TYPES and spec.get("context") in _TREE_CONTEXTS
    return known and _is_plain_tree(spec.get("children_spec", []))
