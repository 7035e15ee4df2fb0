"""Which iterations are left out, counted, timed and recorded."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bertswin_ext.handlers.profiling.session import ProfileSession

PARTS = ["data", "rest", "prepare", "forward", "loss", "backward", "step", "rest", None]


def make_engine(iteration=0, epoch_length=100, steps=1):
    state = SimpleNamespace(
        device="cpu",
        iteration=iteration,
        epoch_length=epoch_length,
        output={"image": torch.ones(3, 2)},
        dataloader=None,
    )
    return SimpleNamespace(state=state, network=nn.Linear(2, 2), accumulation_steps=steps, amp=False, amp_kwargs={})


def run(session, iterations=100):
    """As ignite does it: the iteration counts once its batch is there."""
    for _ in range(iterations):
        for part in PARTS:
            if part == "prepare":
                session.engine.state.iteration += 1
            if part == "forward":
                session.enter(part)
                session.engine.network(session.engine.state.output["image"])
            else:
                session.enter(part)
            if session.is_complete:
                return
        if (
            session.engine.state.iteration % session.engine.state.epoch_length == 0
            and not session.goes_on_after_epoch()
        ):
            return


def facts_of(engine, note="", wait=3, active=4, warmup=1, traced=2, iterations=100):
    session = ProfileSession(engine, wait, active, warmup, traced)
    run(session, iterations)
    session.stop()
    return session, session.facts(note)


def test_the_plan_in_a_row():
    engine = make_engine()
    session, facts = facts_of(engine)
    assert session.planned == (4, 10)
    assert (facts.timed, facts.traced) == ((4, 7), (9, 10))
    assert len(facts.iteration_seconds) == 4
    assert engine.state.iteration == 10
    assert session.is_complete
    assert facts.notes == []


def test_what_it_found():
    _, facts = facts_of(make_engine())
    assert facts.samples == 3
    assert facts.operations == 2 * 3 * 2 * 2
    assert sum(facts.part_seconds.values()) == pytest.approx(facts.seconds)
    assert {time.calls for time in facts.operators if time.name == "aten::linear"} == {1.0}
    assert [time.shapes for time in facts.shapes if time.name == "aten::linear"] == ["3x2, 2x2, 2"]
    assert facts.peak_bytes


def test_a_resumed_run_counts_on():
    session, facts = facts_of(make_engine(iteration=40))
    assert session.planned == (44, 50)
    assert facts.timed == (44, 47)


def test_whole_steps_are_timed_and_a_step_ends_the_trace():
    _, facts = facts_of(make_engine(steps=5), active=6)
    assert facts.timed == (6, 15)
    assert facts.traced == (19, 20)
    assert facts.iterations_per_step == 5


def test_whole_steps_in_mid_epoch():
    """The second epoch began with iteration 13."""
    _, facts = facts_of(make_engine(iteration=14, epoch_length=12, steps=4), wait=0, active=1)
    assert facts.timed == (17, 20)
    assert facts.traced == (23, 24)


def test_nothing_is_counted_if_nothing_is_left_out():
    _, facts = facts_of(make_engine(), wait=0)
    assert facts.operations is None
    assert facts.timed == (1, 4)


def test_a_trace_ends_with_its_epoch():
    session, facts = facts_of(make_engine(epoch_length=9))
    assert facts.traced == (9, 9)
    assert not session.is_complete


def test_a_trace_that_is_only_warm_begins_again():
    session, facts = facts_of(make_engine(epoch_length=8))
    assert facts.traced == (10, 11)
    assert {time.calls for time in facts.operators if time.name == "aten::linear"} == {1.0}
    assert session.is_complete


def test_epochs_too_short_for_any_trace():
    session, facts = facts_of(make_engine(epoch_length=1), note="why")
    assert facts.timed == (4, 7)
    assert facts.traced is None
    assert facts.operators == []
    assert facts.notes == ["why"]
    assert session.engine.state.iteration == 9  # tried twice


def test_a_run_that_ends_before_anything_was_timed():
    assert facts_of(make_engine(), iterations=3)[1] is None


def test_several_inputs():
    engine = make_engine()
    session = ProfileSession(engine, 0, 1, 1, 1)
    for part in ("data", "forward"):
        session.enter(part)
    engine.state.output = {"image": {"a": torch.ones(5, 2), "b": torch.ones(5, 3)}}
    session.enter("loss")
    session.enter(None)
    session.stop()
    assert session.facts("").samples == 5
