"""The command line."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from bertswin_ext.__main__ import main
from bertswin_ext.data import make_phantom


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "bertswin_ext", "phantom", "--output", str(tmp_path / "set")]
    command += ["--count", "1", "--size", "(16, 20, 24)", "--spacing_mm", "1.6", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    datalist = tmp_path / "set" / "datalist.json"
    lines = done.stdout.splitlines()
    assert lines[0] == str(datalist)
    assert f"monai.bundle run --config_file bundles/pretrain/configs/train.json --dataset_dir {datalist}" in lines[1]
    assert json.loads(datalist.read_text())["phantom"]["size"] == [16, 20, 24]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "8"], "error: `size` must be at least 16 voxels per axis, got 8. Use 128, say."),
        (["--cuont", "1"], "error: `phantom` must be given flags it has, got --cuont. Use --output --count"),
        (["--oblique-deg=50"], "error: `oblique_deg` must be from 0 to 30 degrees, got 50."),
    ],
)
def test_command_line_errors_are_one_line(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        main(["phantom", "--output", str(tmp_path / "set"), *flags])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_command_line_needs_a_directory(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["phantom", "--output"])
    assert stopped.value.code == 2
    assert "`--output` must be a directory, got none" in capsys.readouterr().err


def test_command_line_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["phantom", "--help"])
    assert stopped.value.code == 0
    text = "".join(capsys.readouterr())
    for word in ("--spacing_mm", "voxels per axis", "python -m bertswin_ext phantom"):
        assert word in text


# --- check ---


def save(path, low=-1000):
    volume = np.linspace(low, 1500, 6 * 5 * 4).reshape(6, 5, 4).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([0.4, 0.4, 0.5, 1.0])), path)


def test_check_writes_the_table(tmp_path, capsys):
    save(tmp_path / "a.nii")
    save(tmp_path / "b.nii", low=-990)
    main(["check", "--dataset", str(tmp_path)])
    captured = capsys.readouterr()
    assert captured.out.count("  ok\n") == 2
    assert "1 training and 1 validation items" in captured.out
    assert captured.err == ""


def test_check_lists_every_fault_on_a_line(tmp_path, capsys):
    save(tmp_path / "a.nii")
    for name in ("flat.nii", "plain.nii"):
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), dtype=np.int16), np.eye(4)), tmp_path / name)
    with pytest.raises(SystemExit) as stopped:
        main(["check", "--dataset", str(tmp_path)])
    assert stopped.value.code == 2
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"  - {tmp_path}/flat.nii: every voxel is 0. Remove the volume from the datalist.",
        f"  - {tmp_path}/plain.nii: every voxel is 0. Remove the volume from the datalist.",
        f"error: 2 faults in {tmp_path}:",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "nowhere"], "nowhere does not exist. Give a .json datalist or a folder of volumes."),
        (["--dataset"], "`--dataset` must be a datalist or a folder, got none. Use --dataset datalist.json, say."),
        (
            ["--data", "x"],
            "`check` must be given flags it has, got --data. Use --dataset --fold --spacing_mm --img_size.",
        ),
    ],
)
def test_check_errors_are_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        main(["check", *flags])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_check_takes_the_fold(tmp_path, capsys):
    for name in "abc":
        save(tmp_path / f"{name}.nii", low=-1000 + ord(name))
    items = [{"image": f"{name}.nii", "fold": fold} for fold, name in enumerate("abc")]
    (tmp_path / "list.json").write_text(json.dumps({"training": items}))
    main(["check", "--dataset", str(tmp_path / "list.json"), "--fold", "2"])
    assert "2 training and 1 validation items" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", "--dataset", str(tmp_path / "list.json"), "--fold", "7"])
    assert "no item has fold 7. Choose one of 0, 1, 2" in capsys.readouterr().err


def test_check_takes_the_crop(tmp_path, capsys):
    for name in "ab":
        save(tmp_path / f"{name}.nii", low=-1000 + ord(name))
    arguments = ["check", "--dataset", str(tmp_path), "--spacing_mm", "(0.2, 0.2, 0.5)", "--img_size"]
    main([*arguments, "(12, 8, 4)"])
    with pytest.raises(SystemExit):
        main([*arguments, "8"])
    error = capsys.readouterr().err
    assert error.startswith(f"error: 2 faults in {tmp_path}:")
    assert "a.nii: 11 x 9 x 4 voxels at 0.2 x 0.2 x 0.5 mm (RAS axes) are fewer than the crop 8 x 8 x 8" in error
    with pytest.raises(SystemExit):
        main(["check", "--dataset", str(tmp_path), "--img_size", "8"])
    assert "`spacing_mm` and `img_size` must be given together" in capsys.readouterr().err


# --- prepare ---


@pytest.fixture
def raw(tmp_path):
    """Two scans with their joints, in a folder whose name fire would read as a number."""
    scan = make_phantom(0, size=28, spacing_mm=1.6, side="right")
    (tmp_path / "2024_01").mkdir()
    for name in "ab":
        nib.save(nib.Nifti1Image(scan.image.astype(np.int16), scan.affine), tmp_path / "2024_01" / f"{name}.nii")
    items = [{"image": f"{n}.nii", "joint": "right", "center_mm": list(scan.joint_center_mm)} for n in "ab"]
    (tmp_path / "2024_01" / "datalist.json").write_text(json.dumps({"training": items}))
    return tmp_path / "2024_01"


def status_of(*arguments):
    try:
        main(["prepare", *map(str, arguments), "--workers", "1"])
    except SystemExit as stopped:
        return stopped.code
    return 0


SMALL = ("--spacing_mm", 1.6, "--roi_size", 20)


def test_prepare_says_how_to_train(raw, capsys, monkeypatch):
    monkeypatch.chdir(raw.parent)
    assert status_of("--input", "2024_01", "--output", "1e3", *SMALL) == 0
    store = raw.parent / "1e3"
    page, datalist, train = capsys.readouterr().out.splitlines()
    assert (page, datalist) == (f"{store}/report.html", f"{store}/datalist.json")
    assert train.endswith(f"configs/train.json --dataset_dir {store} --spacing_mm 1.6")
    assert len(json.loads((store / "datalist.json").read_text())["training"]) == 2


def test_prepare_takes_its_flags(raw, tmp_path, capsys):
    flags = ["--intensity", "percentile", "--mandible", "[2,4]", "--skull=7", "--fov_radius_mm", 90, "--whole_volume"]
    assert status_of("--input", raw, "--output", tmp_path / "store", *flags) == 0
    prepared = json.loads((tmp_path / "store" / "datalist.json").read_text())["prepared"]
    assert {key: prepared[key] for key in ("intensity", "mandible", "skull", "fov_radius_mm", "whole_volume")} == {
        "intensity": "percentile",
        "mandible": [2, 4],
        "skull": [7],
        "fov_radius_mm": 90,
        "whole_volume": True,
    }
    assert "--spacing_mm" not in capsys.readouterr().out


def test_prepare_says_what_was_refused(raw, tmp_path, capsys):
    (raw / "b.nii").write_bytes((raw / "b.nii").read_bytes()[:999])
    assert status_of("--input", raw, "--output", tmp_path / "store", *SMALL) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "1 of 2 scans were refused, see the report."
    assert "refused  b.nii: the file cannot be read" in captured.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "`--input` must be a path, got none."),
        (["--input=", "--output", "s"], "`--input` must be a path, got none."),
        (["--input", "nowhere", "--output", "s"], "`input` {}/nowhere does not exist. Give a folder of scans, a"),
        (["--input", "2024_01", "--output"], "`--output` must be a path, got none."),
        (["--input", "2024_01", "--output", "2024_01/a.nii"], "`output` {}/2024_01/a.nii is a file. Give a folder"),
        (["--input", "2024_01", "--output", "full"], "`output` {}/full holds something else (mine.txt). Give a new or"),
        (["--input", "2024_01", "--output", "2024_01"], "`output` {}/2024_01 holds something else (a.nii, b.nii, data"),
        (["--input", "empty", "--output", "s"], "{}/empty holds no volumes."),
        (["--input", "full/mine.txt", "--output", "mine.txt/s"], "[Errno 20] Not a directory: "),
        (
            ["--inptu", "a"],
            "`prepare` must be given flags it has, got --inptu. Use --input --output --landmarks --labels",
        ),
        (["--labels"], "`--labels` must be a path, got none."),
        (["--labels", "nowhere"], "`labels` {}/nowhere is not a folder. Give the folder"),
        (["--landmarks", "nowhere.csv"], "the landmarks nowhere.csv do not exist."),
        (["--spacing_mm"], "`--spacing_mm` must be a number, got True."),
        (["--spacing_mm", "fine"], "`--spacing_mm` must be a number, got 'fine'."),
        (["--spacing_mm", "0"], "`spacing_mm` must lie between 0.01 and 10, got 0."),
        (["--roi_size", "20.5"], "`--roi_size` must be a whole number, got 20.5."),
        (["--workers", "0"], "`workers` must be at least 1, got 0."),
        (["--workers", "two"], "`--workers` must be a whole number, got 'two'."),
        (["--mandible"], "`--mandible` must be a whole number, got True."),
        (["--mandible", "[1,x]"], "`--mandible` must be a whole number, got "),
        (["--mandible", "[]"], "`--mandible` must be a whole number, got []."),
        (["--mandible", "2"], "`mandible` and `skull` must not share label values, both have [2]."),
        (["--fov_radius_mm", "wide"], "`--fov_radius_mm` must be a number, got 'wide'."),
        (["--intensity", "HU"], "`intensity` must be one of auto, hu, percentile, got 'HU'."),
        (["--whole_volume=maybe"], "`--whole_volume` is given without a value, or left out; got 'maybe'."),
    ],
)
def test_prepare_errors_are_one_line(raw, capsys, monkeypatch, flags, message):
    folder = raw.parent
    monkeypatch.chdir(folder)
    (folder / "full").mkdir()
    (folder / "full" / "mine.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "mine.txt").touch()
    before = sorted(folder.rglob("*"))
    whole = (
        flags if {"--input", "--input=", "--inptu"} & set(flags) else ["--input", "2024_01", "--output", "s", *flags]
    )
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", *(whole if flags else ["--input", "--output", "s"])])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: " + message.format(folder))
    assert captured.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_prepare_needs_an_output(raw, capsys):
    assert status_of("--input", raw) == 2
    assert "output" in capsys.readouterr().err


def test_prepare_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--help"])
    assert stopped.value.code == 0
    text = "".join(capsys.readouterr())
    for word in ("--landmarks", "3D Slicer", "python -m bertswin_ext prepare --input my_scans", "exit status"):
        assert word in text


def test_a_command_with_hyphens_is_checked_as_any_other(capsys):
    with pytest.raises(SystemExit):
        main(["import-weights", "model.pt", "--bundel", "pretrain"])
    assert "`import_weights` must be given flags it has, got --bundel. Use --file --bundle" in capsys.readouterr().err
