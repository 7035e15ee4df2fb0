import pytest
import torch
from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

from bertswin_ext.networks.position import sincos_position_table


def test_equals_monai_with_the_first_two_thirds_swapped():
    table = sincos_position_table((4, 4, 4), 48)
    first, second, third = build_sincos_position_embedding((4, 4, 4), 48, 3).chunk(3, dim=-1)
    torch.testing.assert_close(table, torch.cat([second, first, third], dim=-1))


def test_each_third_follows_one_axis():
    table = sincos_position_table((2, 3, 4), 12).view(2, 3, 4, 12)
    for axis in range(3):
        third = table[..., 4 * axis : 4 * axis + 4].movedim(axis, 0)
        torch.testing.assert_close(third, third[:, :1, :1].expand_as(third))
        angles = torch.arange(third.shape[0])[:, None] * torch.tensor([1.0, 0.01])
        torch.testing.assert_close(third[:, 0, 0], torch.cat([angles.sin(), angles.cos()], dim=1))


def test_bad_width():
    with pytest.raises(ValueError, match=r"`hidden_size` must be divisible by 6 .*, got 32\."):
        sincos_position_table((2, 2, 2), 32)
