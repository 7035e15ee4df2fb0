"""Datalists: files and folders, split by patient, all faults at once."""

import hashlib
import json
import logging
from pathlib import Path

import pytest

from bertswin_ext.data.datalist import load_datalist


def write(folder, content, images=()):
    """Write a datalist and the (empty) files it names."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        items = [item for items in content.values() if isinstance(items, list) for item in items]
        images = [*images, *(item[key] for item in items for key in ("image", "label") if key in item)]
    for image in images:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    path = folder / "datalist.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def items(count, **extra):
    return [{"image": f"{index}.nii.gz", "patient": f"p{index}", **extra} for index in range(count)]


def patients(split):
    return [item["patient"] for item in split]


def refusal(source, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        load_datalist(source, **options)
    return str(caught.value)


def test_paths_become_absolute_and_other_keys_are_kept(tmp_path):
    item = {
        "image": "scans/a.nii.gz",
        "label": "labels/a.nii.gz",
        "patient": 7,
        "joint": "left",
        "center_mm": [1, -2.5, 3],
        "scanner": "x",
    }
    path = write(tmp_path, {"training": [item, {"image": "b.nii", "patient": "b"}]})
    datalist = load_datalist(path)
    loaded = next(item for item in datalist.training + datalist.validation if item["patient"] == "7")
    assert loaded == {
        **item,
        "image": str(tmp_path / "scans/a.nii.gz"),
        "label": str(tmp_path / "labels/a.nii.gz"),
        "patient": "7",
    }


def test_source_is_named(tmp_path):
    path = write(tmp_path, {"training": items(2)})
    assert load_datalist(path).source == load_datalist(str(path)).source == str(path)


def test_a_relative_source_and_a_path_out_of_the_folder(tmp_path, monkeypatch):
    write(tmp_path / "lists", {"training": [{"image": "../a.nii"}, {"image": "../b.nii"}]})
    monkeypatch.chdir(tmp_path)
    datalist = load_datalist("lists/datalist.json")
    assert sorted(item["image"] for item in datalist.training + datalist.validation) == [
        str(tmp_path / "a.nii"),
        str(tmp_path / "b.nii"),
    ]


def test_a_patient_without_a_name_is_named_after_the_file(tmp_path):
    path = write(tmp_path, {"training": [{"image": "a.b.nii.gz"}], "validation": [{"image": "c.mha"}]})
    datalist = load_datalist(path)
    assert (patients(datalist.training), patients(datalist.validation)) == (["a.b"], ["c"])


def test_a_validation_list_comes_before_folds(tmp_path):
    training = [{**item, "fold": 0} for item in items(2)]
    path = write(tmp_path, {"training": training, "validation": [{"image": "v.nii", "patient": "v"}]})
    datalist = load_datalist(path)
    assert (patients(datalist.training), patients(datalist.validation)) == (["p0", "p1"], ["v"])


def test_an_empty_validation_list_counts_as_none(tmp_path):
    path = write(tmp_path, {"training": items(4), "validation": []})
    assert len(load_datalist(path).validation) == 1


def test_folds(tmp_path):
    path = write(tmp_path, {"training": [{**item, "fold": index % 2} for index, item in enumerate(items(4))]})
    assert patients(load_datalist(path).validation) == ["p0", "p2"]
    assert patients(load_datalist(path, fold=1).validation) == ["p1", "p3"]
    assert patients(load_datalist(path, fold=1).training) == ["p0", "p2"]


@pytest.mark.parametrize(("count", "fraction", "held_out"), [(2, 0.2, 1), (10, 0.2, 2), (10, 0.01, 1), (3, 0.99, 2)])
def test_the_drawn_split_leaves_a_patient_on_both_sides(tmp_path, count, fraction, held_out):
    path = write(tmp_path, {"training": items(count)})
    datalist = load_datalist(path, val_fraction=fraction)
    assert len(datalist.validation) == held_out
    assert len(datalist.training) == count - held_out


def test_the_drawn_split_is_the_lowest_hashes(tmp_path):
    path = write(tmp_path, {"training": items(10)})
    ranked = sorted((f"p{i}" for i in range(10)), key=lambda p: hashlib.sha256(f"3:{p}".encode()).hexdigest())
    assert sorted(patients(load_datalist(path, seed=3).validation)) == sorted(ranked[:2])
    # frozen, so that a run can be repeated with a later version
    assert patients(load_datalist(path).validation) == ["p2", "p7"]


def test_the_drawn_split_keeps_patients_together_and_in_order(tmp_path):
    twice = [{**item, "image": f"{scan}_{item['image']}"} for item in items(5) for scan in "ab"]
    datalist = load_datalist(write(tmp_path, {"training": twice}))
    assert not set(patients(datalist.training)) & set(patients(datalist.validation))
    assert patients(datalist.training) == sorted(patients(datalist.training))
    assert len(datalist.validation) == 2


def test_a_new_patient_moves_at_most_itself_and_one_other(tmp_path):
    before = load_datalist(write(tmp_path, {"training": items(10)})).validation
    after = load_datalist(write(tmp_path, {"training": items(11)})).validation
    assert len(set(patients(before)) ^ set(patients(after))) <= 2


def test_a_single_patient_serves_for_both(tmp_path, caplog):
    path = write(tmp_path, {"training": [{"image": "a.nii", "patient": "x"}, {"image": "b.nii", "patient": "x"}]})
    with caplog.at_level(logging.WARNING):
        datalist = load_datalist(path)
    assert datalist.training == datalist.validation
    assert len(datalist.training) == 2
    assert caplog.messages == [f"{path} has one patient: validation figures only show how well it is fitted."]


def test_one_volume_may_have_two_joints(tmp_path):
    joints = [{"image": "a.nii", "patient": "x", "joint": joint} for joint in ("left", "right")]
    path = write(tmp_path, {"training": [*joints, {"image": "b.nii"}], "validation": []})
    datalist = load_datalist(path)
    assert len(datalist.training + datalist.validation) == 3


def test_the_hash_follows_the_split_and_not_the_place(tmp_path):
    one = load_datalist(write(tmp_path / "one", {"training": items(4)}))
    two = load_datalist(write(tmp_path / "two", {"training": items(4)}))
    assert one.sha256 == two.sha256
    assert len(one.sha256) == 64
    others = [
        load_datalist(tmp_path / "one" / "datalist.json", val_fraction=0.5),
        load_datalist(write(tmp_path / "three", {"training": items(5)})),
        load_datalist(write(tmp_path / "four", {"training": items(4, joint="left")})),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == 4


def test_the_hash_is_frozen(tmp_path):
    path = write(tmp_path, {"training": [{"image": "a.nii"}], "validation": [{"image": "b.nii"}]})
    text = '{"training":[{"image":"a.nii","patient":"a"}],"validation":[{"image":"b.nii","patient":"b"}]}'
    assert load_datalist(path).sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_folder_is_a_dataset(tmp_path):
    write(tmp_path / "data", "", ["a.nii.gz", "b.mha", "c/d.nrrd", "c/e.nii"]).unlink()
    datalist = load_datalist(tmp_path / "data")
    found = {item["image"]: item["patient"] for item in datalist.training + datalist.validation}
    assert found == {
        str(tmp_path / "data" / name): patient
        for name, patient in (("a.nii.gz", "a"), ("b.mha", "b"), ("c/d.nrrd", "c"), ("c/e.nii", "c"))
    }
    moved = Path((tmp_path / "data").rename(tmp_path / "moved"))
    assert load_datalist(moved).sha256 == datalist.sha256


def test_a_folder_stands_for_the_datalist_in_it(tmp_path):
    path = write(tmp_path, {"training": items(3)}, ["not_in_the_list.nii"])
    assert load_datalist(tmp_path) == load_datalist(path)
    assert len(load_datalist(tmp_path).training) == 2


def test_what_volumes_were_prepared_with(tmp_path):
    content = {"training": items(3)}
    assert load_datalist(write(tmp_path / "raw", content)).prepared is None
    prepared = {"version": 1, "spacing_mm": 0.2}
    assert load_datalist(write(tmp_path / "store", {"prepared": prepared, **content})).prepared == prepared


@pytest.mark.parametrize(
    "fov",
    [
        88.0,
        {"radius_mm": 88.0},
        {"center_mm": [0, 0, 0], "radius_mm": -1},
        {"center_mm": [0, 0, 0], "radius_mm": 88.0, "height": 3},
        {"center_mm": [0, 0], "radius_mm": 88.0},
    ],
)
def test_a_field_of_view_must_be_a_cylinder(tmp_path, fov):
    path = write(tmp_path, {"training": items(2, fov=fov)})
    with pytest.raises(ValueError, match=r'training\[0\]: "fov" must be a cylinder \{"center_mm"'):
        load_datalist(path)
    good = {"center_mm": [0, 1, 2.5], "radius_mm": 88, "axis": [0, 0, 1]}
    assert load_datalist(write(tmp_path / "good", {"training": items(2, fov=good)})).training[0]["fov"] == good


def test_all_faults_come_at_once(tmp_path):
    path = write(
        tmp_path,
        {
            "training": [
                {"image": "a.nii", "joint": "Left"},
                {"image": "b.nii", "center_mm": [1, 2], "label": "c.nii", "fold": "1"},
                {"patient": "x"},
            ],
            "validation": [{"image": "d.nii", "patient": ""}],
        },
    )
    (tmp_path / "b.nii").unlink()
    (tmp_path / "c.nii").unlink()
    content = json.loads(path.read_text())
    content["training"] += ["e.nii", {"image": ["f.nii"]}, {"image": "a.nii", "center_mm": [0, 1, float("nan")]}]
    path.write_text(json.dumps(content))
    assert refusal(path) == (
        f"10 faults in {path}:\n"
        '  - training[0]: "joint" must be "left" or "right", got \'Left\'\n'
        f'  - training[1]: "image" does not exist: {tmp_path}/b.nii\n'
        f'  - training[1]: "label" does not exist: {tmp_path}/c.nii\n'
        '  - training[1]: "center_mm" must be 3 numbers, got [1, 2]\n'
        "  - training[1]: \"fold\" must be an integer, got '1'\n"
        '  - training[2]: has no "image"\n'
        "  - training[3]: must be an object with an \"image\", got 'e.nii'\n"
        "  - training[4]: \"image\" must be a path, got ['f.nii']\n"
        '  - training[5]: "center_mm" must be 3 numbers, got [0, 1, nan]\n'
        "  - validation[0]: \"patient\" must be a name, got ''"
    )


def test_a_patient_in_both_lists(tmp_path):
    path = write(tmp_path, {"training": items(3), "validation": [{"image": "v.nii", "patient": "p1"}]})
    assert refusal(path) == f'1 fault in {path}:\n  - patient "p1" is in both training and validation'


def test_a_patient_in_two_folds_and_an_unknown_fold(tmp_path):
    path = write(
        tmp_path, {"training": [{"image": f"{index}.nii", "patient": "x", "fold": index} for index in range(2)]}
    )
    assert refusal(path, fold=5) == (
        f'2 faults in {path}:\n  - patient "x" is in more than one fold: 0, 1\n'
        "  - no item has fold 5. Choose one of 0, 1"
    )


def test_one_fold_leaves_nothing_to_train_on(tmp_path):
    path = write(tmp_path, {"training": items(2, fold=0)})
    assert refusal(path) == (
        f"1 fault in {path}:\n  - all items have fold 0, so none is left to train on. Use at least 2 folds"
    )


def test_only_some_items_with_a_fold(tmp_path):
    path = write(tmp_path, {"training": [*items(2, fold=0), {"image": "x.nii", "patient": "x"}]})
    assert refusal(path) == f'1 fault in {path}:\n  - training[2]: has no "fold", but other items have one'


def test_a_fold_of_a_list_without_folds(tmp_path):
    path = write(tmp_path, {"training": items(3)})
    assert refusal(path, fold=2) == (
        f'1 fault in {path}:\n  - fold 2 is asked for, but no item has a "fold". Add folds, or ask for fold 0'
    )


def test_a_doubled_image(tmp_path):
    path = write(
        tmp_path,
        {
            "training": [
                {"image": "a.nii", "patient": "x"},
                {"image": "./a.nii", "patient": "x"},
                {"image": "a.nii", "patient": "y", "joint": "left"},
            ]
        },
    )
    assert refusal(path) == (
        f"2 faults in {path}:\n"
        f"  - training[1]: the image is already in training[0]: {tmp_path}/a.nii\n"
        '  - training[2]: the image of patient "y" is that of "x" in training[0]'
    )


def test_a_file_name_cannot_stand_for_two_patients(tmp_path):
    path = write(tmp_path, {"training": [{"image": "x/ct.nii.gz"}, {"image": "y/ct.nii.gz"}]})
    assert refusal(path) == (
        f'1 fault in {path}:\n  - training[1]: has no "patient", and its file name "ct" is also that of training[0]'
    )


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", " is not a JSON file: Expecting property name"),
        ("[]", ' must be a JSON object {"training": [...]}, got list.'),
        ("{}", ' has no "training" list, or an empty one. List the items to train on in it.'),
        ('{"training": []}', ' has no "training" list, or an empty one. List the items to train on in it.'),
        ('{"training": {"a": 1}}', ': "training" must be a list of items, got dict.'),
        ('{"training": [1], "validation": "b"}', ': "validation" must be a list of items, got str.'),
    ],
)
def test_a_file_that_is_no_datalist(tmp_path, content, fault):
    path = write(tmp_path, content)
    assert refusal(path).startswith(f"{path}{fault}")


def test_a_volume_is_no_datalist(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(bytes(range(256)))
    assert refusal(path).startswith(f"{path} is not a JSON file: ")


def test_a_missing_source(tmp_path):
    assert refusal(tmp_path / "none") == (
        f"the dataset {tmp_path}/none does not exist. Give a .json datalist or a folder of volumes."
    )


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_val_fraction_is_a_share(tmp_path, fraction):
    assert refusal(tmp_path, val_fraction=fraction) == (
        f"`val_fraction` must be above 0 and below 1, got {fraction}. Use for example 0.2."
    )
