"""The documented commands of the segmentation bundle, on phantoms of a second."""

import csv
import itertools
import json
import re
import signal

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.bundles.conftest import REPOSITORY, command, run
from tests.bundles.test_pretrain_runs import assert_same, last_checkpoint
from tests.moments import AtLogLine, Send

pytestmark = pytest.mark.bundle

TMJ = "tmj_segmentation"


@pytest.fixture(scope="module")
def encoder(phantom_dir, tmp_path_factory):
    """What the pre-training exports."""
    folder = tmp_path_factory.mktemp("pretrained")
    options = {"dataset_dir": phantom_dir, "output_dir": folder, "stem": "non_overlapping", "epochs": 1}
    run(command("pretrain", **options))
    run(command("pretrain", "export_encoder", **options))
    return folder / "encoder.pt"


@pytest.fixture(scope="module")
def finetuned(phantom_dir, encoder, tmp_path_factory):
    """A whole small run."""
    folder = tmp_path_factory.mktemp("finetuned")
    result = run(command(TMJ, dataset_dir=phantom_dir, output_dir=folder, encoder_path=encoder))
    return folder, result.stderr


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def model_of(folder):
    return torch.load(folder / "model.pt", weights_only=True)


def infer(dataset, output, model, **overrides):
    """The command of inference.json with inference_demo.json and the small sizes."""
    arguments = command(TMJ, dataset_dir=dataset, output_dir=output, model_path=model, with_label=False, **overrides)
    files = [str(REPOSITORY / "bundles" / TMJ / "configs" / f"{name}.json") for name in ("inference", "inference_demo")]
    place = arguments.index("--config_file")
    arguments[place + 1] = str(files)
    known = json.loads((REPOSITORY / "bundles" / TMJ / "configs/inference.json").read_text())
    head, options = arguments[: place + 2], arguments[place + 2 :]
    pairs = [options[n : n + 2] for n in range(0, len(options), 2)]
    return head + [part for name, value in pairs if name[2:].split("::")[0] in known for part in (name, value)]


def test_a_run_leaves_what_people_look_at(finetuned, encoder):
    folder, log = finetuned
    for name in ("progress.png", "segmentations/latest.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    rows = rows_of(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    assert all(0 <= float(row["val_mean_dice"]) <= 1 for row in rows)
    report = json.loads((folder / "run_report.json").read_text())
    assert report["status"] == "completed"
    assert report["data"]["counts"] == {"training": 4, "validation": 2}
    record = model_of(folder)["record"]
    assert record["method"] == "BertsWinSegmenter"
    assert record["labels"] == ["background", "mandible", "skull"]
    assert record["spacing_mm"] == [1.6] * 3
    assert str(encoder) in log
    assert "strategy full" in log


def test_two_runs_are_equal(phantom_dir, encoder, finetuned, tmp_path):
    run(command(TMJ, dataset_dir=phantom_dir, output_dir=tmp_path, encoder_path=encoder))
    assert_same(last_checkpoint(tmp_path), last_checkpoint(finetuned[0]))


def test_killed_in_mid_epoch_and_resumed_equals_uninterrupted(phantom_dir, encoder, finetuned, tmp_path):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "encoder_path": encoder, "checkpoint_interval": 2}
    moment = AtLogLine("epoch 2/2 iteration 3/", Send(signal.SIGKILL))
    killed = run(command(TMJ, **options), check=False, moment=moment)
    assert killed.returncode == -signal.SIGKILL
    resumed = run(command(TMJ, resume=True, **options))
    assert "resumed from" in resumed.stderr
    assert_same(last_checkpoint(tmp_path), last_checkpoint(finetuned[0]))
    assert_same(model_of(tmp_path)["model"], model_of(finetuned[0])["model"])


@pytest.mark.parametrize(
    ("overlay", "overrides", "trained"),
    [
        ("linear_probe", {}, r"decoder\."),
        ("linear_probe", {"decoder": "two_layer"}, r"decoder\."),
        ("last_stage", {"num_last_blocks": 1}, r"decoder\.|encoder\.blocks\.1\."),
        ("layer_decay", {}, ""),
        ("lora", {}, r"decoder\.|encoder\.blocks\.\d\.(attn\.(qkv|proj)|mlp\.linear[12])\.weight"),
    ],
)
def test_a_strategy_trains_what_it_says(phantom_dir, encoder, tmp_path, overlay, overrides, trained):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "encoder_path": encoder, "epochs": 1} | overrides
    run(command(TMJ, overlay, **options))
    before, after = torch.load(encoder, weights_only=True)["model"], model_of(tmp_path)["model"]
    changed = {name for name, value in after.items() if name not in before or not torch.equal(before[name], value)}
    wanted = {name for name in after if re.match(trained, name)}
    assert changed == wanted
    if overlay == "lora":
        adapters = torch.load(tmp_path / "adapters.pt", weights_only=True)
        assert all(".parametrizations." in name or name.startswith("decoder.") for name in adapters)
    else:
        assert not (tmp_path / "adapters.pt").exists()


@pytest.mark.parametrize(
    ("overlay", "overrides"),
    [
        ("from_scratch", {}),
        ("vit_mae", {"encoder_path": ""}),
        # it halves its window, a multiple of 32, five times, and more than one voxel must be left
        ("swin_unetr", {"img_size": [64, 32, 32], "network_def::feature_size": 12, "region_mm": 200}),
        ("segresnet", {"network_def::init_filters": 8}),
    ],
)
def test_a_baseline_trains(tmp_path, overlay, overrides):
    from bertswin_ext.data import write_phantoms

    phantoms = write_phantoms(tmp_path / "phantoms", count=2, size=(66, 36, 36), spacing_mm=1.6)
    options = {"dataset_dir": phantoms, "output_dir": tmp_path / "run", "epochs": 1, "crops_per_volume": 1}
    run(command(TMJ, overlay, **options | overrides))
    assert rows_of(tmp_path / "run" / "metrics.csv")[0]["val_mean_dice"]


def test_weights_without_our_names_can_be_measured(phantom_dir, tmp_path):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "epochs": 1, "network_def::init_filters": 8}
    run(command(TMJ, "segresnet", **options))
    run(command(TMJ, "segresnet", "evaluate", **options))
    assert rows_of(tmp_path / "evaluation" / "scores.csv")


def test_evaluation_of_a_run(phantom_dir, finetuned):
    folder, _ = finetuned
    run(command(TMJ, "evaluate", dataset_dir=phantom_dir, output_dir=folder))
    rows = rows_of(folder / "evaluation" / "scores.csv")
    assert [row["class"] for row in rows] == ["mandible", "skull"] * 2
    assert {"dice", "hd95_mm", "assd_mm", "patient", "joint"} <= set(rows[0])
    assert (folder / "evaluation" / "worst.png").read_bytes().startswith(b"\x89PNG")
    assert "mandible" in (folder / "evaluation" / "summary.md").read_text()
    # the run itself is left as it was
    assert (folder / "model.pt").is_file()
    assert not (folder / "previous").exists()


@pytest.mark.parametrize(("knob", "value"), [("spacing_mm", 1.5), ("img_size", 16), ("num_heads", 4)])
def test_weights_of_another_configuration_are_refused(phantom_dir, finetuned, tmp_path, knob, value):
    """Also where the shapes of the weights would not tell."""
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "model_path": finetuned[0] / "model.pt"}
    result = run(command(TMJ, "evaluate", **{knob: value}, **options), check=False)
    assert result.returncode == 1
    assert knob in result.stderr[result.stderr.rindex("The cause:") :]


def test_adapters_are_resumed_and_measured(phantom_dir, encoder, tmp_path):
    options = {"dataset_dir": phantom_dir, "encoder_path": encoder, "checkpoint_interval": 2}
    run(command(TMJ, "lora", output_dir=tmp_path / "whole", **options))
    moment = AtLogLine("epoch 2/2 iteration 3/", Send(signal.SIGKILL))
    killed = run(command(TMJ, "lora", output_dir=tmp_path / "killed", **options), check=False, moment=moment)
    assert killed.returncode == -signal.SIGKILL
    run(command(TMJ, "lora", output_dir=tmp_path / "killed", resume=True, **options))
    assert_same(last_checkpoint(tmp_path / "killed"), last_checkpoint(tmp_path / "whole"))
    run(command(TMJ, "lora", "evaluate", output_dir=tmp_path / "whole", **options))
    assert rows_of(tmp_path / "whole" / "evaluation" / "scores.csv")


def test_fewer_epochs_than_between_validations(phantom_dir, tmp_path):
    run(command(TMJ, dataset_dir=phantom_dir, output_dir=tmp_path, epochs=1, val_interval=5))
    assert (tmp_path / "model.pt").is_file()


def test_a_class_that_no_label_has_is_named(phantom_dir, tmp_path):
    datalist = json.loads(phantom_dir.read_text())
    for item in datalist["training"]:
        label = nib.load(phantom_dir.parent / item["label"])
        without = np.asarray(label.dataobj) % 2
        nib.save(nib.Nifti1Image(without.astype(np.uint8), label.affine), tmp_path / item["label"])
        item["image"] = str(phantom_dir.parent / item["image"])
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    result = run(command(TMJ, dataset_dir=tmp_path, output_dir=tmp_path / "run", epochs=1))
    assert "none of the 4 training volumes has a label of skull" in result.stderr
    assert "none of the 2 validation volumes has a label of skull" in result.stderr


def test_an_encoder_of_another_size_is_refused(phantom_dir, encoder, tmp_path):
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "encoder_path": encoder, "hidden_size": 48}
    result = run(command(TMJ, **options), check=False)
    assert result.returncode == 1
    said = result.stderr[result.stderr.rindex("The cause:") :]
    assert str(encoder) in said
    assert "hidden_size" in said


def test_a_run_without_validation_keeps_its_last_weights(phantom_dir, tmp_path):
    """As MONAI Label starts it when one label has been drawn."""
    items = json.loads(phantom_dir.read_text())["training"][:1]
    data = [{key: str(phantom_dir.parent / items[0][key]) for key in ("image", "label")}]
    options = {"output_dir": tmp_path / "run", "published_path": tmp_path / "models" / "model.pt"}
    options |= {"train::dataset::data": data, "validate::dataset::data": "[]", "train::trainer::max_epochs": 1}
    run(command(TMJ, **options))
    assert model_of(tmp_path / "models")["record"]["method"] == "BertsWinSegmenter"
    assert model_of(tmp_path / "run").keys() == {"model", "record"}


# --- inference ---


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """One oblique, anisotropic phantom, written in all 8 combinations of axis signs, and one smaller than a window."""
    from bertswin_ext.data import make_phantom

    folder = tmp_path_factory.mktemp("scans")
    phantom = make_phantom(seed=5, size=(30, 26, 28), spacing_mm=(1.4, 1.6, 1.5), oblique_deg=12)
    for signs in itertools.product((1, -1), repeat=3):
        flip = np.eye(4)
        for axis, sign in enumerate(signs):
            if sign < 0:
                flip[axis, axis], flip[axis, 3] = -1, phantom.image.shape[axis] - 1
        image = phantom.image[tuple(slice(None, None, sign) for sign in signs)]
        name = "".join("+" if sign > 0 else "-" for sign in signs)
        nib.save(nib.Nifti1Image(image.astype(np.int16), phantom.affine @ flip), folder / f"scan{name}.nii.gz")
    small = phantom.image[:9, :20, :28].astype(np.int16)
    nib.save(nib.Nifti1Image(small, phantom.affine), folder / "small.nii.gz")
    return folder


@pytest.fixture(scope="module")
def segmented(scans, finetuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    run(infer(scans, folder, finetuned[0] / "model.pt"))
    return folder


def test_labels_have_the_inputs_own_geometry(scans, segmented):
    paths = sorted(scans.glob("*.nii.gz"))
    assert len(paths) == 9
    for path in paths:
        image = nib.load(path)
        label = nib.load(segmented / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert label.shape == image.shape, path.name
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
        assert nib.aff2axcodes(label.affine) == nib.aff2axcodes(image.affine)
        assert label.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1, 2}


def test_the_way_a_volume_is_written_does_not_matter(segmented):
    """All 8 hold the same anatomy at the same places in the world."""
    labels = {}
    for path in sorted(segmented.glob("scan*_seg.nii.gz")):
        signs = [1 if sign == "+" else -1 for sign in path.name[4:7]]
        labels[path.name] = np.asarray(nib.load(path).dataobj)[tuple(slice(None, None, sign) for sign in signs)]
    first, *others = labels.values()
    assert len(others) == 7
    assert first.any()
    assert all((other != first).mean() < 0.01 for other in others)


def test_pictures_of_the_segmented_volumes(segmented):
    assert (segmented / "latest.png").read_bytes().startswith(b"\x89PNG")


def test_mirroring_and_cleaning_are_knobs(scans, finetuned, tmp_path):
    options = {"mirror_axes": "[0,1]", "displayable_configs::keep_largest_component": True}
    run(infer(scans / "scan+++.nii.gz", tmp_path, finetuned[0] / "model.pt", **options))
    assert (tmp_path / "scan+++_seg.nii.gz").is_file()


def test_a_folder_without_weights_says_so(scans, tmp_path):
    result = run(infer(scans, tmp_path, tmp_path / "gone.pt"), check=False)
    assert result.returncode == 1
    assert "gone.pt does not exist" in result.stderr
