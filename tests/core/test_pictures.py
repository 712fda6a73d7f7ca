import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax.core import pictures

PALETTE = np.array([(0, 0, 0), (250, 10, 20), (30, 240, 50)], np.uint8)


def test_default_palette_is_that_of_pascal_voc():
    """The colours of PASCAL VOC's 21 classes and of its border, as its development kit has them."""
    voc = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
        (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0), (64, 0, 128), (192, 0, 128),
        (64, 128, 128), (192, 128, 128), (0, 64, 0), (128, 64, 0), (0, 192, 0), (128, 192, 0), (0, 64, 128),
    ]  # fmt: skip
    palette = pictures.default_palette(256)
    np.testing.assert_array_equal(palette[:21], voc)
    np.testing.assert_array_equal(palette[255], (224, 224, 192))
    assert len(np.unique(palette, axis=0)) == 256
    assert palette.dtype == np.uint8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=40))
def test_colourise_looks_up_each_pixel(values):
    label = np.array(values, np.uint8)[None]
    coloured = pictures.colourise(label, PALETTE)
    for value, colour in zip(values, coloured[0], strict=True):
        np.testing.assert_array_equal(colour, PALETTE[value] if value < 3 else (0, 0, 0))
    assert coloured.dtype == np.uint8


def test_colourise_draws_what_has_no_colour_as_asked():
    label = np.array([[-1, 0, 2, 3, 255]], np.int64)
    coloured = pictures.colourise(label, PALETTE, ignored=(9, 8, 7))
    np.testing.assert_array_equal(coloured[0], [(9, 8, 7), PALETTE[0], PALETTE[2], (9, 8, 7), (9, 8, 7)])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_overlay_mixes_classes_and_leaves_the_unlabelled(alpha):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    label = rng.choice([0, 1, 2, 255], (2, 5, 7)).astype(np.uint8)
    before = image.copy()
    mixed = pictures.overlay(image, label, PALETTE, alpha)
    for place in np.ndindex(label.shape):
        if label[place] == 255:
            np.testing.assert_array_equal(mixed[place], image[place])
        else:
            expected = (1 - alpha) * image[place] + alpha * PALETTE[label[place]].astype(float)
            np.testing.assert_allclose(mixed[place], expected, atol=0.5 + 1e-6)
    np.testing.assert_array_equal(image, before)


def test_overlay_refuses_two_sizes():
    with pytest.raises(ValueError, match="one size"):
        pictures.overlay(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), np.uint8), PALETTE)


def has_colour(picture, colour) -> bool:
    return bool((picture == np.array(colour)).all(axis=-1).any())


def test_legend_has_a_box_for_each_class_and_the_width_asked_for():
    picture = pictures.legend(["a", "b", "c"], PALETTE, width=200)
    assert picture.shape[1:] == (200, 3)
    assert all(has_colour(picture, colour) for colour in PALETTE)


def test_legend_leaves_out_classes_without_a_pixel():
    picture = pictures.legend(["a", "b", "c"], PALETTE, counts=[5, 0, 7], width=200)
    assert not has_colour(picture, PALETTE[1])
    assert has_colour(picture, PALETTE[2])
    assert pictures.legend(["a", "b", "c"], PALETTE, counts=[0, 0, 0], width=50).shape[1] == 50


def test_a_narrow_legend_is_higher_than_a_wide_one():
    names = [f"a long class name {index}" for index in range(12)]
    palette = pictures.default_palette(12)
    wide, narrow = (pictures.legend(names, palette, width=width) for width in (1200, 150))
    assert narrow.shape[0] > wide.shape[0]
    assert has_colour(narrow, palette[11])
    assert has_colour(wide, palette[11])


def test_panel_row_sets_pictures_side_by_side():
    rng = np.random.default_rng(1)
    one, two = (rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((5, 7), (3, 4)))
    row = pictures.panel_row([one, two], gap=2)
    assert row.shape == (5, 13, 3)
    np.testing.assert_array_equal(row[:, :7], one)
    np.testing.assert_array_equal(row[:3, 9:], two)
    assert (row[:, 7:9] == 255).all()
    assert (row[3:, 9:] == 255).all()


def test_panel_row_writes_titles_above_and_cuts_long_ones():
    image = np.zeros((10, 60, 3), np.uint8)
    row = pictures.panel_row([image, image], ["id", "a title that is far too long for its picture"])
    top = row.shape[0] - 10
    np.testing.assert_array_equal(row[top:, :60], image)
    assert (row[:top, :60] < 128).any()
    assert (row[:top, 60:64] == 255).all()
    assert row.shape[1] == 124
    with pytest.raises(ValueError, match="each picture needs a title"):
        pictures.panel_row([image], ["a", "b"])


def test_grid_sets_pictures_one_below_the_other():
    rng = np.random.default_rng(2)
    one, two = (rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in ((2, 7), (3, 4)))
    whole = pictures.grid([one, two], gap=1)
    assert whole.shape == (6, 7, 3)
    np.testing.assert_array_equal(whole[:2], one)
    np.testing.assert_array_equal(whole[3:, :4], two)
    assert (whole[2] == 255).all()
    assert (whole[3:, 4:] == 255).all()


def test_heat_is_brightest_where_the_weight_is_largest_and_marks_the_pixel():
    image = np.full((40, 60, 3), 100, np.uint8)
    weights = np.zeros((4, 6))
    weights[3, 5] = 0.2
    drawn = pictures.heat(image, weights, (10, 20))
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    brightness = drawn.sum(-1, dtype=int)
    assert brightness[36:, 56:].min() > brightness[:, :40][brightness[:, :40] < 250].max()
    np.testing.assert_array_equal(drawn[10, 20], pictures.MARK)
    np.testing.assert_array_equal(drawn[10, 18], pictures.MARK)
    assert (drawn == pictures.MARK).all(-1).sum() == 9


def test_heat_of_equal_weights_is_dark_everywhere():
    drawn = pictures.heat(np.full((4, 4, 3), 100, np.uint8), np.full((2, 2), 0.5))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1 and drawn.max() < 60


@pytest.mark.parametrize("titles", [None, ["a", "b", "c"]])
def test_panels_of_row_undoes_panel_row(titles):
    rng = np.random.default_rng(0)
    images = list(rng.integers(0, 256, (3, 5, 7, 3)).astype(np.uint8))
    row = pictures.panel_row(images, titles, gap=2)
    np.testing.assert_array_equal(pictures.panels_of_row(row, 3, titles is not None, gap=2), images)
    with pytest.raises(ValueError, match="3 pictures"):
        pictures.panels_of_row(row[:, 1:], 3, titles is not None, gap=2)
