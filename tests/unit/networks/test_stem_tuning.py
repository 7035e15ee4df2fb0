"""A new stem for a frozen network."""

import pytest
import torch
from torch import nn

from bertswin_ext.networks.masked_autoencoder import BertsWinMAE
from bertswin_ext.networks.stem_tuning import StemTuner, start_stem
from bertswin_ext.networks.stems import PatchStem
from bertswin_ext.networks.weights import load_encoder, save_encoder

SIZES = {"patch_size": 8, "hidden_size": 24, "num_layers": 2, "num_heads": 2, "window_size": 2, "stem_channels": 4}


def network(**options):
    return BertsWinMAE(24, decoder_hidden_size=8, **{**SIZES, **options})


@pytest.fixture
def path(tmp_path):
    """Weights of a network in which nothing is as it was initialised."""
    torch.manual_seed(1)
    trained = network()
    for parameter in trained.parameters():
        nn.init.normal_(parameter, std=0.3)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def x():
    return torch.randn(2, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def valid():
    valid = torch.ones(2, 27, dtype=torch.bool)
    valid[0, :5] = False
    return valid


def test_the_new_kernels_are_those_voxels_of_the_old_ones_that_lie_in_the_cell():
    """A volume that is zero except where both kernels look gives both stems the same first stage."""
    source, stem = PatchStem(1, 24, 8, 4), PatchStem(1, 24, 8, 4, "non_overlapping")
    start_stem(stem, source)
    x = torch.zeros(1, 1, 8, 8, 8)
    x[..., 2:4, 4:6, 6:8] = torch.randn(2, 2, 2)
    cell = (..., 1, 2, 3)
    torch.testing.assert_close(stem.stages[0][0](x)[cell], source.stages[0][0](x)[cell])
    assert torch.equal(stem.projection.weight, source.projection.weight)


@pytest.mark.parametrize("stem", ["non_overlapping", "overlapping"])
@pytest.mark.parametrize("objective", ["tokens", "reconstruction"])
def test_only_the_new_stem_learns(path, x, stem, objective):
    tuner = StemTuner(network(), path, stem, objective=objective).train()
    learning = {name for name, parameter in tuner.named_parameters() if parameter.requires_grad}
    assert learning == {f"tuned.stem.{name}" for name, _ in tuner.tuned.stem.named_parameters()}
    output = tuner(x)
    loss = output["reconstruction"] if objective == "reconstruction" else output["tokens"] - output["expected_tokens"]
    loss.square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tuner.tuned.stem.parameters())
    assert all(parameter.grad is None for parameter in tuner.source.parameters())


def test_a_step_leaves_the_pretrained_network_as_it_was(path, x):
    tuner = StemTuner(network(), path, "overlapping").train()
    before = {name: value.clone() for name, value in tuner.source.state_dict().items()}
    optimizer = torch.optim.SGD(tuner.tuned.stem.parameters(), lr=1.0)
    output = tuner(x)
    (output["tokens"] - output["expected_tokens"]).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in tuner.source.state_dict().items())
    assert not torch.equal(tuner.tuned.stem.projection.weight, before["stem.projection.weight"])


def test_the_ways_through_the_network(path, x, valid):
    tuner = StemTuner(network(), path).eval()
    source = network().eval()
    source.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        per_patch, untuned, tuned = (
            tuner.outputs(x, valid, "per_patch"),
            tuner.outputs(x, valid, "untuned"),
            tuner(x, valid=valid, noise=torch.rand(2, 27)),
        )
        assert torch.equal(per_patch["reconstruction"], source.decode(source.encode_patches(x, valid)))
        assert torch.equal(untuned["reconstruction"], source.decode(source.encode_volume(x)))
        assert torch.equal(tuned["reconstruction"], tuner.tuned.decode(tuner.tuned.encode_volume(x)))
    for output in (per_patch, untuned, tuned):
        assert torch.equal(output["expected_tokens"], per_patch["tokens"])
        assert torch.equal(output["expected_features"], per_patch["features"])
        assert output["masked"].all()
        assert output["masked"].shape == valid.shape
        assert output["features"].shape == output["tokens"].shape == (2, 27, 24)
    assert torch.equal(tuned["tokens"], tuner.tuned.tokens(x))
    assert torch.equal(tuned["features"].transpose(1, 2).unflatten(2, (3, 3, 3)), tuner.tuned.encode_volume(x))


def test_training_computes_what_evaluation_measures(path, x):
    for objective in ("tokens", "reconstruction"):
        tuner = StemTuner(network(), path, objective=objective)
        trained = tuner.train()(x)
        measured = tuner.eval()(x)
        assert all(torch.equal(value, measured[name]) for name, value in trained.items())
    assert set(trained) == {"reconstruction", "masked"}


def test_the_old_kernels_are_nearer_than_random_ones(path, x):
    errors = {}
    for init in ("kernels", "random"):
        output = StemTuner(network(), path, init=init)(x)
        errors[init] = (output["tokens"] - output["expected_tokens"]).square().mean().item()
    assert errors["kernels"] < errors["random"]


def test_the_overlapping_stem_starts_as_the_pretrained_one(path, x):
    tuner = StemTuner(network(), path, "overlapping").eval()
    assert torch.equal(tuner(x)["tokens"], tuner.outputs(x, route="untuned")["tokens"])
    assert tuner.tuned.stem is not tuner.source.stem


def test_the_result_is_a_network_of_its_own(path, x, tmp_path):
    tuner = StemTuner(network(), path).eval()
    save_encoder(tuner.tuned, tmp_path / "encoder.pt", spacing_mm=0.2)
    again = load_encoder(tmp_path / "encoder.pt")
    assert again.arguments == {**network().arguments, "stem": "non_overlapping"}
    features, skips = again.eval().encode_volume(x, return_skips=True)
    torch.testing.assert_close(features, tuner.tuned.encode_volume(x))
    assert [skip.shape[-1] for skip in skips] == [12, 6, 3]


def test_a_state_is_taken_over(path, x):
    torch.manual_seed(0)
    first = StemTuner(network(), path, init="random").eval()
    second = StemTuner(network(), path).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x)["reconstruction"], second(x)["reconstruction"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "strict"}, "`stem` must be one of overlapping, non_overlapping, got 'strict'"),
        ({"init": "zeros"}, "`init` must be one of kernels, random, got 'zeros'"),
        ({"objective": "loss"}, "`objective` must be one of tokens, reconstruction, got 'loss'"),
        ({"path": "nowhere.pt"}, "Checkpoint nowhere.pt does not exist"),
        ({"network": nn.Linear(2, 2)}, "Only a BertsWinMAE has a stem to tune, got Linear"),
        ({"network": network(stem="non_overlapping")}, "the same tokens for a volume as for its patches"),
        ({"network": network(hidden_size=12)}, "does not fit the network"),
    ],
)
def test_what_cannot_be_tuned_is_refused(path, options, message):
    with pytest.raises(ValueError, match=message):
        StemTuner(**{"network": network(), "path": path, **options})


def test_an_unknown_way_is_refused(path, x):
    with pytest.raises(ValueError, match="`route` must be one of per_patch, untuned, tuned, got 'masked'"):
        StemTuner(network(), path).outputs(x, route="masked")
