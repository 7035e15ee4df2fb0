"""The command that packs a bundle."""

import pytest

from bertswin_ext.__main__ import main
from bertswin_ext.networks.record import AdaptationRecord, save_network
from bertswin_ext.networks.segmenter import BertsWinSegmenter
from tests.unit.runs.test_pack import BUNDLE, SIZES


def test_a_bundle_is_packed(tmp_path, capsys):
    network = BertsWinSegmenter(**SIZES)
    save_network(network, tmp_path / "model.pt", AdaptationRecord.of(network, 0.8))
    folder = tmp_path / "tmj_segmentation"
    main(["pack", "--model", str(tmp_path / "model.pt"), "--output", str(folder), "--bundle", str(BUNDLE)])
    assert capsys.readouterr().out.strip() == str(folder)
    assert (folder / "models" / "model.pt").is_file()


def test_a_model_that_does_not_exist(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pack", "--model", str(tmp_path / "gone.pt"), "--output", str(tmp_path / "packed")])
    assert stopped.value.code == 2
    assert "gone.pt does not exist" in capsys.readouterr().err
