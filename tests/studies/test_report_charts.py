"""Axes, colours and pictures of a report."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from segjax.studies import report_charts as charts
from segjax.studies import report_style


@pytest.mark.parametrize(
    "low, high, ticks",
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 30, [0, 10, 20, 30]),
        (13, 87, [0, 20, 40, 60, 80, 100]),
        (-0.03, 0.04, [-0.04, -0.02, 0, 0.02, 0.04]),
    ],
)
def test_ticks_are_round_and_reach_around_the_values(low, high, ticks):
    assert charts.nice_ticks(low, high) == pytest.approx(ticks)


def test_ticks_of_one_value_and_of_logarithms():
    assert charts.nice_ticks(7, 7)[0] <= 7 <= charts.nice_ticks(7, 7)[-1]
    assert charts.log_ticks(0.3, 12) == [0.5, 1, 2, 5, 10]
    assert charts.log_ticks(1e-4, 1) == [1e-4, 1e-3, 1e-2, 1e-1, 1]
    assert charts.log_ticks(0.31, 0.32) == [0.31]


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """Of two colours #rrggbb by WCAG 2, 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read(theme):
    colours = {name: both[theme] for name, both in report_style.COLOURS.items()}
    for name in ("text", "muted", "link", "bad"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
        assert contrast(colours[name], colours["box"]) >= 4.5, name
    assert contrast(colours["text"], colours["warn"]) >= 4.5
    for number in range(charts.COLOURS):
        assert contrast(colours[f"c{number}"], colours["page"]) >= 3, number


def test_numbers_on_heat_colours_can_be_read():
    for value in np.linspace(-0.1, 1.1, 121):
        back, text = charts.heat_colours(value)
        assert contrast(back, {"#000": "#000000", "#fff": "#ffffff"}[text]) >= 4.5


def test_large_pictures_are_made_smaller():
    flat = np.zeros((300, 1024, 3), np.uint8)
    flat[:, 512:] = 200, 10, 30
    decoded = Image.open(io.BytesIO(base64.b64decode(charts.data_uri(flat).partition(",")[2]))).convert("RGB")
    assert decoded.size == (512, 150)
    assert sorted(colour for _, colour in decoded.getcolors()) == [(0, 0, 0), (200, 10, 30)]
