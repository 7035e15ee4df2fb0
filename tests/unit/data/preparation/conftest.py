"""What several tests of this folder need."""

import pytest

from bertswin_ext.data.preparation import scan_preparation


@pytest.fixture
def quick(monkeypatch):
    """Without drawing, which takes longer than all the rest."""

    def draw(path, *_):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr(scan_preparation, "write_thumbnail", draw)
