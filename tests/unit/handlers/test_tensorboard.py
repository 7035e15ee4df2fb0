"""The writer that opens late."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertswin_ext.handlers.tensorboard import LazyWriter


def test_nothing_is_left_where_nothing_is_written(tmp_path):
    LazyWriter(tmp_path / "none").flush()
    assert not (tmp_path / "none").exists()


def test_entries_share_one_file(tmp_path):
    writer = LazyWriter(tmp_path / "some")
    for step in range(3):
        writer.open().add_scalar("value", 2.0 * step, step)
    writer.flush()
    assert len(list((tmp_path / "some").iterdir())) == 1
    events = EventAccumulator(str(tmp_path / "some")).Reload().Scalars("value")
    assert [(event.step, event.value) for event in events] == [(0, 0), (1, 2), (2, 4)]
