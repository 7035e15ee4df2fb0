"""What `torch.export.load` would run; where a test says so, it is shown that it does."""

import contextlib
import io
import json

import pytest
import torch

from bertswin_ext.programs.exported import write_exported
from bertswin_ext.programs.exported_safety import refuse_code
from tests.unit.programs import tiny

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"


@pytest.fixture(scope="module")
def harmless():
    return write_exported(tiny.network(), tiny.images(2), "{}")


def changed(data, change, name=GRAPH):
    """The archive with another graph, or another record of JSON."""
    records = tiny.contents(data)
    content = json.loads(records[name])
    change(content)
    return tiny.archive(records | {name: json.dumps(content).encode()})


def refused(data, match, mark):
    with pytest.raises(ValueError, match=match):
        refuse_code(data)
    assert not mark.exists()


def runs(data, mark):
    """Whether reading it without a check runs code."""
    with contextlib.suppress(Exception):  # after the harm
        torch.export.load(io.BytesIO(data))
    return mark.exists()


def test_what_export_writes(harmless):
    refuse_code(harmless)


def test_the_archives_of_these_tests_are_read(harmless):
    refuse_code(changed(harmless, lambda graph: None))
    torch.export.load(io.BytesIO(changed(harmless, lambda graph: None)))


def test_a_weight_that_is_a_pickle(harmless, tmp_path):
    mark = tmp_path / "mark"
    records = tiny.contents(harmless)
    name = next(iter(json.loads(records[WEIGHTS])["config"]))
    path = json.loads(records[WEIGHTS])["config"][name]["path_name"]
    data = tiny.archive(records | {f"data/weights/{path}": tiny.pickled(tiny.Mark(mark))})
    data = changed(data, lambda config: config["config"][name].update(use_pickle=True), WEIGHTS)
    refused(data, f"{name!r} in {WEIGHTS} is a pickle", mark)
    assert runs(data, mark)


def test_sample_inputs(harmless, tmp_path):
    mark = tmp_path / "mark"
    data = tiny.archive(tiny.contents(harmless) | {SAMPLES: tiny.pickled((tiny.Mark(mark),))})
    refused(data, "sample inputs .*a pickle", mark)
    assert runs(data, mark)


def test_an_expression_that_is_code(harmless, tmp_path):
    mark = tmp_path / "mark"

    def harm(graph):
        size = graph["graph_module"]["graph"]["tensor_values"][first_with_symbol(graph)]["sizes"][0]
        size["as_expr"]["expr_str"] = f"__import__('os').mkdir('{mark}')"

    data = changed(harmless, harm)
    refused(data, "'expr_str' in models/model.json is .*no operation on tensors", mark)
    assert runs(data, mark)


def first_with_symbol(graph):
    values = graph["graph_module"]["graph"]["tensor_values"]
    return next(name for name, value in values.items() if value["sizes"] and "as_expr" in value["sizes"][0])


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.serialization.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.load_library",
        "torch.ops.aten.__class__.__init__.x",
        "_operator.methodcaller",
        "_operator.call",
        "math.__loader__",
        "#namespace:op",
        "eval",
    ],
)
def test_a_function_that_is_no_operation(harmless, tmp_path, target):
    data = changed(harmless, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(target=target))
    refused(data, f"'target' in models/model.json is '{target}'", tmp_path / "mark")


@pytest.mark.parametrize("text", ['x"); import os; ("', "x=print(1)", "a\nb", "a b", "a(b)", "x\\"])
def test_a_name_that_would_become_code(harmless, tmp_path, text):
    data = changed(harmless, lambda graph: graph["graph_module"]["graph"]["nodes"][0].update(name=text))
    refused(data, "'name' in models/model.json is ", tmp_path / "mark")
    data = changed(harmless, lambda graph: graph["range_constraints"].update({text: {"min_val": 0, "max_val": None}}))
    refused(data, "'name' in models/model.json is ", tmp_path / "mark")


@pytest.mark.parametrize(
    "expression",
    [
        "print(1)",
        "exec(chr(1))",
        "Symbol('a b')",
        "Symbol('s1').__class__",
        "s1.func",
        "[1 for s1 in s2]",
        "lambda: s1",
        "Symbol('s1', positive=print)",
        "positive",
    ],
)
def test_expressions_beyond_arithmetic(harmless, tmp_path, expression):
    def harm(graph):
        size = graph["graph_module"]["graph"]["tensor_values"][first_with_symbol(graph)]["sizes"][0]
        size["as_expr"]["expr_str"] = expression

    refused(changed(harmless, harm), "'expr_str' in models/model.json", tmp_path / "mark")


def test_guards(harmless, tmp_path):
    data = changed(harmless, lambda graph: graph.update(guards_code=["print(1)"]))
    refused(data, "guards, which are Python code", tmp_path / "mark")


def test_a_structure_of_another_type(harmless, tmp_path):
    def harm(graph):
        call = graph["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace("builtins.tuple", "os.system")

    refused(changed(harmless, harm), "'in_spec' in models/model.json", tmp_path / "mark")


def test_a_structure_that_names_a_module(harmless, tmp_path):
    def harm(graph):
        call = graph["graph_module"]["module_call_graph"][0]["signature"]
        call["in_spec"] = call["in_spec"].replace(
            '"context": "null"', '"context": {"__enum__": true, "fqn": "antigravity:x", "name": "y"}'
        )

    refused(changed(harmless, harm), "'in_spec' in models/model.json", tmp_path / "mark")


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/x.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/constants/model.pt",
        "data/weights/model.pt",
        "data/executorch/x.pte",
        "models/other.json",
        "serialized_exported_program.json",
    ],
)
def test_records_that_no_network_needs(harmless, tmp_path, name):
    data = tiny.archive(tiny.contents(harmless) | {name: b"x"})
    refused(data, f"holds {name!r}, which no exported network needs", tmp_path / "mark")


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
def test_a_record_is_lacking(harmless, tmp_path, name):
    records = tiny.contents(harmless)
    del records[name]
    refused(tiny.archive(records), f"it has no {name!r}", tmp_path / "mark")


def test_weights_in_the_place_of_a_program(tmp_path):
    refused(tiny.pickled({"model": torch.zeros(1)}), "holds 'data.pkl'", tmp_path / "mark")
