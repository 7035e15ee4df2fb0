"""Flags that are on or off."""

import pytest

from bertswin_ext.commands.switch import switch


@pytest.mark.parametrize(("value", "said"), [(True, True), ("true", True), (1, True), (False, False), ("False", False)])
def test_what_fire_gives(value, said):
    assert switch("overwrite", value) is said


@pytest.mark.parametrize("value", ["maybe", None, 2, ""])
def test_what_is_neither(value):
    with pytest.raises(TypeError, match=r"`--overwrite` must be true or false, got"):
        switch("overwrite", value)
