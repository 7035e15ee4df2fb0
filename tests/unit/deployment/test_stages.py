import pytest

from bertswin_ext.deployment.stages import counted


def test_a_stage_that_comes_again_is_added_up():
    seconds = {"load": 5.0}
    with counted(seconds, "load"), counted(seconds, "network"):
        pass
    assert seconds["load"] >= 5.0
    assert list(seconds) == ["load", "network"]


def test_a_stage_that_fails_is_counted():
    seconds = {}
    with pytest.raises(ValueError, match="torn"), counted(seconds, "load"):
        raise ValueError("torn")
    assert seconds["load"] >= 0.0
