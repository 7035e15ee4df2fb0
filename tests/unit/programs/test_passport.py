import json

import pytest

from bertswin_ext.programs.passport import Passport
from tests.unit.programs import tiny


def changed(**entries):
    return json.dumps(json.loads(tiny.passport().to_text()) | entries)


def test_there_and_back():
    assert Passport.from_text(tiny.passport().to_text(), "model.ts") == tiny.passport()


def test_equal_passports_are_equal_texts():
    one, other = tiny.record(a=1, b=2), tiny.record(b=2, a=1)
    assert Passport(one, 1, tiny.SIZE).to_text() == Passport(other, 1, tiny.SIZE).to_text()


def test_no_record():
    with pytest.raises(ValueError, match=r"Program model.ts has no record.json.*Export it again"):
        Passport.from_text(None, "Program model.ts")


def test_torn():
    with pytest.raises(ValueError, match=r"record.json in model.ts is no JSON"):
        Passport.from_text(tiny.passport().to_text()[:-5], "model.ts")


def test_a_record_that_lacks_something():
    with pytest.raises(ValueError, match=r"record of model.ts lacks axes, min_hu, max_hu, mean_hu, std_hu"):
        Passport.from_text('{"arguments": {}, "spacing_mm": 1}', "model.ts")


@pytest.mark.parametrize(
    "given",
    [None, [1, 8, 8, 8], {}, {"channels": 1}, {"channels": 1, "size": [8, 8]}, {"channels": 0, "size": [8, 8, 8]}]
    + [{"channels": 1, "size": size} for size in ([8, 8, 8.5], [8, True, 8], [8, 8, "8"], [8, -8, 8], 8)],
)
def test_an_input_that_is_none(given):
    with pytest.raises(ValueError, match=r"must name the input's channels and three sizes"):
        Passport.from_text(changed(input=given), "model.ts")
