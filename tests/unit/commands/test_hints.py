"""What commands have in common."""

from pathlib import Path

import pytest

from bertswin_ext.commands.hints import check_numbers, check_paths, how_to_train


def test_the_command_to_train():
    assert how_to_train(Path("store")).endswith("configs/train.json --dataset_dir store")
    assert how_to_train(Path("my store"), 0.4).endswith("--dataset_dir 'my store' --spacing_mm 0.4")


@pytest.mark.parametrize("value", ["True", "", True])
def test_a_flag_without_its_path(value):
    with pytest.raises(TypeError, match="`--labels` must be a path, got none"):
        check_paths(input="a", labels=value)
    check_paths(input="a", labels=None)


def test_numbers():
    check_numbers(spacing_mm=0.2, fov_radius_mm=None)
    check_numbers(whole=True, workers=2, mandible=(1, 2))
    with pytest.raises(TypeError, match="`--spacing_mm` must be a number, got True"):
        check_numbers(spacing_mm=True)
    with pytest.raises(TypeError, match=r"`--workers` must be a whole number, got 1\.5"):
        check_numbers(whole=True, workers=1.5)
