"""Pictures of a report, small enough to stand in the page: curves and intervals as SVG, panels as data URIs."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from segjax.studies.statistics import Band

DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLOURS = 8
"""Colours --c0 to --c7 of the page; further rows take them again with other dashes."""
LARGEST_SIDE = 512
"""Pixels to which pictures are made smaller."""

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40


def line_style(number: int) -> str:
    """The attributes of the k-th row's line."""
    dash = DASHES[number // COLOURS % len(DASHES)]
    return f'style="stroke:var(--c{number % COLOURS})"' + (f' stroke-dasharray="{dash}"' if dash else "")


def curves(title: str, axis: str, bands: Mapping[int, tuple[str, Band]], *, log: bool, factor: float = 1.0) -> str:
    """Curves with their bands as an SVG; "" where there is nothing to draw.

    Args:
      title: read out by screen readers.
      axis: of the values.
      bands: the row's number -> its name and its curve.
      log: a logarithmic axis, where values reach over a factor of 3 or more; those that are not positive are left out.
      factor: that values are multiplied with.
    """
    drawn = {}
    for number, (name, found) in bands.items():
        values = factor * np.stack([found.mean, found.low, found.high]).reshape(3, -1)
        keep = np.isfinite(values).all(0) & ((values > 0).all(0) if log else True)
        if keep.any():
            drawn[number] = name, found.steps[keep], values[:, keep]
    if not drawn:
        return ""
    shown = np.concatenate([values.ravel() for _, _, values in drawn.values()])
    steps = np.concatenate([steps for _, steps, _ in drawn.values()])
    log = log and shown.max() >= 3 * shown.min()
    ticks = log_ticks(shown.min(), shown.max()) if log else nice_ticks(shown.min(), shown.max())
    step_ticks = nice_ticks(min(0, steps.min()), steps.max())
    low, high = min(ticks[0], shown.min()), max(ticks[-1], shown.max())
    scale = math.log if log else float
    right = max(step_ticks[-1], steps.max())

    def x(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - step_ticks[0]) / ((right - step_ticks[0]) or 1)

    def y(value):
        share = (scale(value) - scale(low)) / ((scale(high) - scale(low)) or 1)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in step_ticks:
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    parts.append(
        f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{html.escape(axis)}</text>'
    )
    for number, (name, at, (mean, least, most)) in drawn.items():
        points = [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(at, mean, strict=True)]
        parts.append(f'<g data-row="{number}"><title>{html.escape(name)}</title>')
        if (most > least).any():
            edge = [
                f"{x(s):.1f},{y(v):.1f}"
                for s, v in [*zip(at, most, strict=True), *zip(at[::-1], least[::-1], strict=True)]
            ]
            parts.append(f'<polygon style="fill:var(--c{number % COLOURS})" points="{" ".join(edge)}"/>')
        parts.append(f'<polyline {line_style(number)} points="{" ".join(points)}"/>')
        if len(points) <= 30:
            for step, value in zip(at, mean, strict=True):
                dot = f'cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5"'
                parts.append(f'<circle style="fill:var(--c{number % COLOURS})" {dot}/>')
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About `wanted` round numbers from `low` or below to `high` or above, steps of 1, 2 or 5 times a power of 10."""
    if not high > low:
        low, high = low - (abs(low) or 1) * 0.05, high + (abs(high) or 1) * 0.05
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of 10 inside of low..high, only the powers where these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if math.log10(high / low) < 3 else (1,)
    found = [float(f"{factor * 10.0**power:.12g}") for power in powers for factor in factors]
    return [tick for tick in found if low <= tick <= high] or [float(f"{low:.2g}")]


Line = tuple[float, Sequence[tuple[float, float]]]
"""A difference and its intervals, [(low, high), ...]; NaN where there is none."""


def reach(lines: Sequence[Line]) -> float:
    """How far from 0 the differences and their intervals go, 1 where there are none."""
    values = [abs(v) for value, pairs in lines for v in (value, *(bound for pair in pairs for bound in pair))]
    return max((value for value in values if math.isfinite(value)), default=0) or 1


def intervals(lines: Sequence[Line]) -> list[str]:
    """A small SVG for each difference: its intervals as bars, it as a dot, on one scale around the line of 0."""
    largest = reach(lines)

    def x(value):
        return 80 + 74 * value / largest

    found = []
    for value, pairs in lines:
        parts = ['<svg class="forest" viewBox="0 0 160 20" aria-hidden="true"><path class="axis" d="M80 0V20"/>']
        for number, (low, high) in enumerate(pairs):
            if math.isfinite(low) and math.isfinite(high):
                y = (5, 15)[number % 2]
                parts.append(f'<path class="bar b{number}" d="M{x(low):.1f} {y}H{x(high):.1f}"/>')
        if math.isfinite(value):
            parts.append(f'<circle cx="{x(value):.1f}" cy="10" r="3.5"/>')
        found.append("".join([*parts, "</svg>"]))
    return found


def heat_colours(value: float) -> tuple[str, str]:
    """Background and text for 0..1: cividis (Nunez et al. 2018), which the colour-blind read as others do."""
    from matplotlib import colormaps

    red, green, blue, _ = colormaps["cividis"](min(max(value, 0.0), 1.0))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    # The text that has the higher contrast by WCAG 2.
    text = "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"
    return "#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in (red, green, blue))), text


def data_uri(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W, 3], as PNG of its colours where these are 256 or fewer, as WebP where they are more.

    One with a side longer than LARGEST_SIDE is made smaller; flat colours stay as they are.
    """
    flat = picture.reshape(-1, 3).astype(np.uint32)
    codes = (flat[:, 0] << 16) | (flat[:, 1] << 8) | flat[:, 2]
    colours, index = np.unique(codes, return_inverse=True)
    few = len(colours) <= 256
    image = Image.fromarray(index.reshape(picture.shape[:2]).astype(np.uint8) if few else picture)
    shrink = max(picture.shape[:2]) / LARGEST_SIDE
    if shrink > 1:
        size = tuple(max(1, round(side / shrink)) for side in image.size)
        image = image.resize(size, Image.Resampling.NEAREST if few else Image.Resampling.LANCZOS)
    written = io.BytesIO()
    if few:
        palette = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
        image = image.convert("L")
        image.putpalette(palette.tobytes())
        image.save(written, "PNG", optimize=True)
    else:
        image.save(written, "WEBP", quality=80, method=6)
    return f"data:image/{'png' if few else 'webp'};base64," + base64.b64encode(written.getvalue()).decode()
