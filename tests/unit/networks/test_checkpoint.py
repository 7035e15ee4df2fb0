import pytest
import torch

from bertswin_ext.networks.checkpoint import read_checkpoint, tensors_of


def test_unreadable_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"Checkpoint .*gone\.pt does not exist\. Check the path\."):
        read_checkpoint(tmp_path / "gone.pt")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    cases = {"torn.pt": data[: len(data) // 2], "empty.pt": b"", "text.pt": b"hello world"}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"Checkpoint .*{name} cannot be read: .*Copy it again"):
            read_checkpoint(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"list\.pt must hold a dictionary, found list\."):
        read_checkpoint(tmp_path / "list.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    torch.save({"network": torch.nn.Linear(2, 2)}, tmp_path / "pickled.pt")
    with pytest.raises(ValueError, match=r"pickled\.pt cannot be read: .*other things than tensors"):
        read_checkpoint(tmp_path / "pickled.pt")


@pytest.mark.parametrize("wrapper", [None, "model", "network", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_tensors_are_found_under_wrappers_and_prefixes(wrapper, prefix):
    tensors = {f"{prefix}a.module.weight": torch.ones(2), "epoch": 3}
    found = tensors_of(tensors if wrapper is None else {"record": {}, wrapper: tensors})
    assert list(found) == ["a.module.weight"]
    assert torch.equal(found["a.module.weight"], torch.ones(2))
