"""Second names."""

import torch

from bertswin_ext.transforms.alias import Aliasd


def test_both_names_hold_the_same_volume():
    image = torch.zeros(1, 2, 2, 2)
    sample = {"image": image, "seed": 1}
    named = Aliasd("image", "input")(sample)
    assert named["input"] is named["image"] is image
    assert named["seed"] == 1
    assert "input" not in sample
