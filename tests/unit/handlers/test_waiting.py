"""The share of an epoch that is spent waiting for data, with a clock that the test sets."""

import pytest
from ignite.engine import Engine, Events

from bertswin_ext.handlers.waiting import WaitingTime, percent


class Clock:
    """A time that passes when somebody says so."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds

    def pass_by(self, seconds):
        self.seconds += seconds


def run(loading, computing, epochs=1, length=None, stay=0.0):
    """Epochs whose batches take ``loading`` seconds to come, and ``computing`` to be done with."""
    clock, shares = Clock(), []

    def load():
        for seconds in loading:
            clock.pass_by(seconds)
            yield seconds

    engine = Engine(lambda engine, batch: clock.pass_by(computing))
    waiting = WaitingTime(clock)
    waiting.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: shares.append(waiting.last_epoch))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: clock.pass_by(stay))
    engine.run(load(), max_epochs=epochs, epoch_length=length or len(loading))
    return waiting, shares


def test_share_of_an_epoch():
    waiting, shares = run(loading=[1, 1, 1, 1, 1], computing=3)
    assert shares == [pytest.approx(0.25)]
    assert waiting.session == pytest.approx(0.25)


def test_the_first_iteration_does_not_count():
    _, shares = run(loading=[1000, 1, 1], computing=4)
    assert shares == [pytest.approx(0.2)]


def test_an_epoch_of_one_first_iteration_says_nothing():
    waiting, shares = run(loading=[1], computing=4)
    assert shares == [None]
    assert waiting.session is None


def test_every_epoch_is_its_own_and_the_session_is_all_of_them():
    waiting, shares = run(loading=[9, 0, 0, 3, 3, 3], computing=1, epochs=2, length=3)
    assert shares == [0.0, pytest.approx(0.75)]
    assert waiting.session == pytest.approx(9 / 14)


def test_what_lies_between_epochs_does_not_count():
    waiting, shares = run(loading=[1, 1, 1, 1], computing=1, epochs=2, length=2, stay=1000)
    assert shares == [pytest.approx(0.5), pytest.approx(0.5)]
    assert waiting.session == pytest.approx(0.5)


def test_starting_the_loader_again_is_waiting():
    clock, engine = Clock(), Engine(lambda engine, batch: clock.pass_by(1))

    class Loader:
        def __iter__(self):
            clock.pass_by(5)
            return iter(range(2))

    waiting = WaitingTime(clock)
    waiting.attach(engine)
    engine.run(Loader(), max_epochs=1, epoch_length=4)
    assert waiting.last_epoch == pytest.approx(5 / 8)


def test_a_second_run_begins_anew():
    clock, engine = Clock(), Engine(lambda engine, batch: clock.pass_by(1))
    waiting = WaitingTime(clock)
    waiting.attach(engine)
    for seconds, share in ((1, 0.5), (3, 0.75)):

        def load(seconds=seconds):
            for _ in range(3):
                clock.pass_by(seconds)
                yield seconds

        engine.run(load(), max_epochs=1, epoch_length=3)
        assert waiting.session == pytest.approx(share)


def test_by_default_it_is_the_time_of_the_machine():
    engine = Engine(lambda engine, batch: None)
    waiting = WaitingTime()
    waiting.attach(engine)
    engine.run(range(50), max_epochs=1)
    assert 0 < waiting.last_epoch < 1


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0 %"), (0.0994, "9.9 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text
