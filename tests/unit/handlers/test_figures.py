"""Figures of curves, and figures as files."""

from unittest import mock

import matplotlib.image
import pytest
from matplotlib.figure import Figure

from bertswin_ext.handlers.figures import _panels, curves_figure, ordered_columns, save_png


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    save_png(Figure(figsize=(2, 1), dpi=50), tmp_path / "new" / "a.png")
    assert matplotlib.image.imread(tmp_path / "new" / "a.png").shape[:2] == (50, 100)
    before = (tmp_path / "new" / "a.png").read_bytes()

    def half(self, path, **kwargs):
        path.write_bytes(b"half")
        raise OSError("disk full")

    with mock.patch.object(Figure, "savefig", half), pytest.raises(OSError, match="disk full"):
        save_png(Figure(), tmp_path / "new" / "a.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]
    assert (tmp_path / "new" / "a.png").read_bytes() == before


def test_columns_are_ordered_by_what_they_are():
    rows = [{"val_loss": 1.0, "seconds": 1.0, "epoch": 1}, {"train_a": 1.0, "learning_rate": 1.0, "train_loss": 2.0}]
    assert ordered_columns(rows) == ["epoch", "train_loss", "train_a", "learning_rate", "seconds", "val_loss"]


def test_panels():
    columns = ["train_loss", "train_structure_loss", "learning_rate", "val_loss", "val_structure_loss", "val_psnr"]
    assert _panels(columns) == {
        "loss": ["train_loss", "val_loss"],
        "loss terms": ["train_structure_loss", "val_structure_loss"],
        "val_psnr": ["val_psnr"],
        "learning rate": ["learning_rate"],
    }


def test_panels_of_the_conductor():
    columns = ["conductor/cosine/a-b", "conductor/norm/a", "conductor/norm/b", "conductor/weight/a"]
    columns += ["conductor/weight/b", "conductor/wins/a", "conductor/wins/b", "conductor/skipped_steps"]
    panels = _panels(columns)
    assert panels["cosine of gradients"] == ["conductor/cosine/a-b"]
    assert panels["conflicts won per step"] == ["conductor/wins/a", "conductor/wins/b"]
    assert not any("skipped" in name for names in panels.values() for name in names)


def test_one_loss_has_no_conflicts_to_draw():
    columns = ["conductor/norm/loss", "conductor/weight/loss", "conductor/wins/loss", "conductor/conflicts"]
    assert list(_panels(columns)) == ["learning rate"]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [((1.0, 0.1), "log"), ((1.0, 0.9), "linear"), ((1.0, -1.0), "linear"), ((1.0, float("nan")), "linear")],
)
def test_scale_of_the_losses(losses, scale):
    rows = [{"epoch": i + 1, "train_loss": loss, "learning_rate": 1e-4} for i, loss in enumerate(losses)]
    figure = curves_figure(rows, "a run")
    figure.canvas.draw()
    assert figure.axes[0].get_yscale() == scale
    ticks = [tick for axes in figure.axes for tick in axes.get_xticks()]
    assert all(float(tick).is_integer() for tick in ticks)


def test_nothing_to_draw():
    with pytest.raises(ValueError, match=r"`rows` must hold at least one epoch, got none. Draw"):
        curves_figure([])
