"""Faults of a configuration, found before anything is built."""

import json

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from bertswin_ext.runs.config_check import check_config, config_problems, current_config, known_ids

GOOD = {
    "imports": ["$import torch"],
    "epochs": 3,
    "size": 4,
    "network": {"_target_": "torch.nn.Linear", "in_features": "@size", "out_features": "$@size + 1"},
    "train": {
        "sampler": {"_target_": "bertswin_ext.data.StreamSampler", "num_items": 3},
        "handlers": [{"_target_": "ValidationHandler", "interval": 1}],
        "make": {"_target_": "torch.nn.Linear", "_mode_": "callable", "in_features": 1},
    },
    "run": ["$@network", "$@train::sampler"],
}
KNOWN = {*GOOD, "train::sampler", "train::handlers", "train::make"}


def problems(**changes):
    return config_problems({**GOOD, **changes}, KNOWN)


def test_nothing_to_say_about_a_good_configuration():
    assert problems() == []
    assert problems(_meta_={"version": "0.1.0"}) == []


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("epoch", "Did you mean 'epochs'?"),
        ("sise", "Did you mean 'size'?"),
        ("quite_different", "See the knobs at the top of the configuration."),
    ],
)
def test_an_unknown_entry(key, hint):
    assert problems(**{key: 5}) == [f"the entry {key!r} does not exist. {hint}"]


def test_an_unknown_entry_of_a_group():
    assert problems(train={**GOOD["train"], "smapler": {"batch_size": 2}}) == [
        "the entry 'train::smapler' does not exist. Did you mean 'train::sampler'?"
    ]
    assert problems(phantoms={"count": 3}, size="$@phantoms::count") == []


@pytest.mark.parametrize("count", [0, -3, 2.5, True, None])
def test_counts_are_whole_numbers(count):
    assert problems(epochs=count) == [f"`epochs` must be a whole number from 1 on, got {count}"]
    assert problems(epochs="$2 + 1") == []


def test_a_false_that_would_count_as_true():
    assert problems(size="false") == ["size: false on the command line is a text, which counts as true. Write False"]
    assert problems(size=False) == []


def test_a_helper_that_is_referenced_is_fine():
    assert problems(factor=2, size="$@factor * 2") == []
    assert problems(mine={"a": 2}, size="@mine::a") == []


def test_a_component_that_does_not_exist():
    assert problems(network={"_target_": "torch.nn.Linaer", "in_features": 1}) == [
        "network: torch.nn.Linaer does not exist. Is its package installed?"
    ]
    assert problems(network={"_target_": "NoSuchNet"}) == [
        "network: NoSuchNet does not exist. Is its package installed?"
    ]


def test_a_module_that_cannot_be_loaded(tmp_path, monkeypatch):
    (tmp_path / "broken_here.py").write_text("raise RuntimeError('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = problems(network={"_target_": "broken_here.Net"})
    assert problem.startswith("network: broken_here.Net cannot be loaded: ")
    assert "no driver" in problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_features": 1, "out_features": 1, "bais": True}, "got an unexpected keyword argument 'bais'"),
        ({"in_features": 1}, "missing a required argument: 'out_features'"),
    ],
)
def test_wrong_arguments(arguments, message):
    assert problems(network={"_target_": "torch.nn.Linear", **arguments}) == [f"network: torch.nn.Linear: {message}"]


def test_short_names_are_monais():
    (problem,) = problems(train={"handlers": [{"_target_": "ValidationHandler", "intervall": 1}]}, run=[])
    assert problem == (
        "train::handlers::0: monai.handlers.validation_handler.ValidationHandler: "
        "got an unexpected keyword argument 'intervall'"
    )


def test_what_the_component_alone_decides_is_left_to_it():
    off = {"_target_": "not.installed.Handler", "_disabled_": True}
    assert problems(network=off) == []
    assert problems(network={**off, "_disabled_": "true"}) == []
    assert problems(network={"_target_": "torch.nn.Linear", "_mode_": "callable", "in_features": 1}) == []
    assert len(problems(network={**off, "_disabled_": "$@size > 3"})) == 1
    assert problems(network={"_target_": "builtins.dict", "anything": 1}) == []


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("@sice", "sice"),
        ("$@size + @sice", "sice"),
        ("@train::sampler::seed", "train::sampler::seed"),
        ("@run::9", "run::9"),
    ],
)
def test_a_reference_to_nothing(value, name):
    assert problems(epochs=value) == [f"epochs: @{name} refers to nothing"]


def test_text_with_an_at_sign_is_no_reference():
    assert problems(epochs="write to somebody@example.org") == []


def test_everything_at_once():
    found = problems(
        epoch=5, size="@sice", network={"_target_": "torch.nn.Linear", "bais": 1}, run=[{"_target_": "NoSuchNet"}]
    )
    assert len(found) == 4
    assert [problem.split(" ")[0] for problem in found] == ["the", "size:", "network:", "run::0:"]


# --- a bundle ---


@pytest.fixture
def bundle(tmp_path):
    root = tmp_path / "tiny"
    (root / "configs").mkdir(parents=True)
    config = {
        **GOOD,
        "imports": ["$from bertswin_ext.runs import check_config", "$from bertswin_ext.runs import current_config"],
        "root": str(root),
        "run": ["$check_config(@root)", "$current_config()"],
    }
    (root / "configs" / "train.json").write_text(json.dumps(config))
    (root / "configs" / "demo.json").write_text(json.dumps({"+imports": [], "train::sampler::seed": 2, "extra": 1}))
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0", "task": "x"}))
    return root


def run(bundle, **overrides):
    files = [str(bundle / "configs" / "train.json")]
    workflow = ConfigWorkflow(
        config_file=files, meta_file=str(bundle / "configs" / "metadata.json"), logging_file=False, **overrides
    )
    return workflow.run()


def test_the_entries_of_all_configurations_are_known(bundle):
    assert known_ids(bundle) == {*KNOWN, "root", "extra"}


def test_a_folder_without_configurations(tmp_path):
    with pytest.raises(
        ValueError, match=rf"No configurations in {tmp_path}/configs\. `bundle_root` must be the bundle's"
    ):
        known_ids(tmp_path)


def test_the_configuration_is_the_one_that_is_run(bundle):
    _, config = run(bundle, size=7)
    assert config["size"] == 7
    assert config["epochs"] == 3
    assert config["run"][1] == "$current_config()"


def test_faults_stop_the_run_and_all_are_listed(bundle):
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        run(bundle, epoch=5, **{"network::bais": True})
    text = str(caught.value.__cause__)
    assert text.splitlines() == [
        "2 faults in the configuration of tiny:",
        "  - the entry 'epoch' does not exist. Did you mean 'epochs'?",
        "  - network: torch.nn.Linear: got an unexpected keyword argument 'bais'",
    ]


def test_one_fault_is_one_fault(bundle):
    with pytest.raises(RuntimeError, match="Failed to evaluate") as caught:
        run(bundle, epoch=5)
    assert str(caught.value.__cause__).startswith("1 fault in the configuration of tiny:\n")


def test_a_parser_alone_is_enough(bundle):
    parser = ConfigParser(
        {"imports": ["$from bertswin_ext.runs import current_config"], "a": 1, "b": "$current_config()"}
    )
    assert parser.get_parsed_content("b")["a"] == 1


@pytest.mark.parametrize("call", [current_config, lambda: check_config("bundles/pretrain")])
def test_outside_a_configuration(call):
    with pytest.raises(
        RuntimeError, match="`current_config` reads the configuration it is called from; call it inside one"
    ):
        call()
