"""Planes, directions, masks and colours of the picture of a reconstruction."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from bertswin_ext.handlers.reconstruction_figure import _HIDDEN, blank_masked, reconstruction_figure
from tests.unit.handlers.test_reconstruction_image import PATCH, SIZE, TOKENS, make_output


def data_of(figure, column, plane):
    """Return the pixels of a panel of the first volume."""
    return figure.axes[3 * column + plane].images[0].get_array()


@pytest.mark.parametrize("token", [0, 1, 4, 12, 23])
def test_one_masked_token_blanks_exactly_its_voxels(token):
    masked = torch.zeros(2, TOKENS, dtype=torch.bool)
    masked[1, token] = True
    blanked = blank_masked(torch.zeros(2, 3, *SIZE), masked, PATCH, value=7.0)
    gi, gj, gk = token // 12, token // 4 % 3, token % 4
    expected = torch.zeros(2, 3, *SIZE)
    expected[1, :, 4 * gi : 4 * gi + 4, 4 * gj : 4 * gj + 4, 4 * gk : 4 * gk + 4] = 7.0
    assert torch.equal(blanked, expected)
    assert (blanked != 0).sum() == 3 * PATCH**3


def test_planes_and_directions():
    image = torch.zeros(1, 1, *SIZE)
    image[0, 0, 4, 6, 15] = 1.0  # central in i and j, uppermost in k
    figure = reconstruction_figure(image, image, torch.zeros(1, TOKENS, dtype=torch.bool), PATCH)
    sagittal, coronal, axial = (data_of(figure, 0, plane) for plane in range(3))
    assert (sagittal.shape, coronal.shape, axial.shape) == ((16, 12), (16, 8), (12, 8))
    assert np.argwhere(sagittal == 1).tolist() == [[15, 6]]
    assert np.argwhere(coronal == 1).tolist() == [[15, 4]]
    assert not axial.any()
    assert {axes.images[0].origin for axes in figure.axes} == {"lower"}  # row 15 is drawn at the top


def test_columns():
    output = make_output(value=0.25)
    masked = torch.zeros(1, TOKENS, dtype=torch.bool)
    masked[0, 18] = True  # token (1, 1, 2): the only one hidden, it holds the centre
    figure = reconstruction_figure(output["image"], output["pred"]["reconstruction"], masked, PATCH)
    original, visible, reconstruction, pasted = (data_of(figure, column, 0) for column in range(4))
    assert set(np.unique(original)) == {0.25}
    assert set(np.unique(reconstruction)) == {1.25}
    expected = np.zeros((16, 12), dtype=bool)
    expected[8:12, 4:8] = True
    assert np.array_equal(np.ma.getmaskarray(visible), expected)
    assert np.array_equal(pasted == 1.25, expected)
    assert [text.get_text() for text in figure.texts][1:3] == ["original", "visible (96%)"]


def test_hidden_tokens_have_their_own_colour():
    masked = torch.ones(1, TOKENS, dtype=torch.bool)
    figure = reconstruction_figure(*[torch.full((1, 1, *SIZE), -5.0)] * 2, masked, PATCH)
    image = figure.axes[3].images[0]
    assert np.allclose(image.cmap(image.norm(image.get_array()))[0, 0, :3], to_rgb(_HIDDEN))


def test_panels_have_the_proportions_of_the_volume():
    figure = reconstruction_figure(
        *[torch.zeros(1, 1, *SIZE)] * 2, torch.ones(1, TOKENS).bool(), PATCH, spacing_mm=(1, 1, 2)
    )
    width, height = figure.get_size_inches()
    boxes = [axes.get_position() for axes in figure.axes[:3]]
    ratios = [box.height * height / (box.width * width) for box in boxes]
    assert ratios == pytest.approx([32 / 12, 32 / 8, 12 / 8])


def test_bad_shapes():
    image, masked = torch.zeros(1, 1, *SIZE), torch.zeros(1, TOKENS, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"divisible by `patch_size` 5, got \(1, 1, 8, 12, 16\). Use the patch size"):
        blank_masked(image, masked, 5, 0.0)
    with pytest.raises(ValueError, match=r"\(b, n\) = \(1, 24\) for a token grid of 2 x 3 x 4, got \(1, 3\). Use"):
        blank_masked(image, masked[:, :3], PATCH, 0.0)
    with pytest.raises(ValueError, match=r"the shape of the image \(1, 1, 8, 12, 16\), got \(1, 1, 4, 12, 16\). Pass"):
        reconstruction_figure(image, image[:, :, :4], masked, PATCH)
