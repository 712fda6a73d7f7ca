"""Drawing label maps: colours, overlays, legends and sheets. Pictures are uint8 [H, W, 3] RGB."""

import functools
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

BACKGROUND = (255, 255, 255)
TEXT = (20, 20, 20)
MARK = (0, 255, 0)
TITLE_HEIGHT = 20
"""Pixels that titles take above the pictures of a row."""


def default_palette(num_classes: int) -> np.ndarray:
    """PASCAL VOC's colours, uint8 [num_classes, 3]: the class index's bits, spread over red, green and blue.

    Bits 0, 1 and 2 of the index are the top bits of red, green and blue, bits 3, 4 and 5 the next ones,
    and so on (`VOClabelcolormap` of the VOC development kit). Class 0 is black.
    """
    index = np.arange(num_classes)
    palette = np.zeros((num_classes, 3), np.int64)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        palette[:, channel] |= (index >> bit & 1) << place
    return palette.astype(np.uint8)


def colourise(label: np.ndarray, palette: np.ndarray, ignored: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """A label's classes as colours.

    Args:
      label: integers [...]; a value that has no colour, such as IGNORE_LABEL, is drawn as `ignored`.
      palette: uint8 [num_classes, 3].
    Returns:
      uint8 [..., 3].
    """
    table = np.concatenate([palette, np.array([ignored], np.uint8)])
    known = (label >= 0) & (label < len(palette))
    return table[np.where(known, label, len(palette))]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The label's colours laid over an image; where the label has no colour the image is left as it is.

    Args:
      image: uint8 [..., 3].
      label: integers [...], of the image's size.
      alpha: 0..1, how much of the image the colour hides.
    Raises:
      ValueError: the sizes differ.
    """
    if image.shape[:-1] != label.shape:
        raise ValueError(f"image and label must have one size; received {image.shape[:-1]} and {label.shape}")
    mixed = np.rint((1 - alpha) * image + alpha * colourise(label, palette)).astype(np.uint8)
    known = (label >= 0) & (label < len(palette))
    return np.where(known[..., None], mixed, image)


def heat(image: np.ndarray, weights: np.ndarray, place: tuple[int, int] | None = None) -> np.ndarray:
    """Weights laid over an image, from dark (the least of them) to bright (the most).

    Args:
      image: uint8 [H, W, 3].
      weights: float [H', W'], resized to the image's size.
      place: (row, column) of a pixel to be marked by a cross.
    Returns:
      uint8 [H, W, 3].
    """
    weights = np.asarray(weights, np.float32)
    low, high = weights.min(), weights.max()
    scaled = (weights - low) / (high - low) if high > low else np.zeros_like(weights)
    grey = Image.fromarray(np.round(255 * scaled).astype(np.uint8)).resize(
        image.shape[1::-1], Image.Resampling.BILINEAR
    )
    colours = matplotlib.colormaps["inferno"](np.asarray(grey), bytes=True)[..., :3]
    mixed = Image.fromarray(np.rint(0.3 * image + 0.7 * colours).astype(np.uint8))
    if place is not None:
        draw, (row, column) = ImageDraw.Draw(mixed), place
        reach = max(2, min(image.shape[:2]) // 40)
        draw.line((column - reach, row, column + reach, row), fill=MARK)
        draw.line((column, row - reach, column, row + reach), fill=MARK)
    return np.asarray(mixed)


def legend(
    class_names: Sequence[str],
    palette: np.ndarray,
    counts: Sequence[int] | None = None,
    width: int = 640,
) -> np.ndarray:
    """A box and a name for each class, in as many columns as fit: uint8 [H, width, 3].

    Args:
      counts: pixels of each class; their shares in per cent are written behind the names, and classes that
        have none are left out.
    """
    entries = [(name, tuple(map(int, colour))) for name, colour in zip(class_names, palette, strict=True)]
    if counts is not None:
        total = max(sum(counts), 1)
        entries = [
            (f"{name} {100 * count / total:.1f} %", colour)
            for (name, colour), count in zip(entries, counts, strict=True)
            if count
        ]
    font = _font()
    box, gap, height = 12, 6, 20
    cell = max((box + 3 * gap + font.getlength(name) for name, _ in entries), default=width)
    columns = max(1, int(width // cell))
    rows = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, max(1, rows) * height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, (name, colour) in enumerate(entries):
        x, y = gap + (number % columns) * (width // columns), (number // columns) * height
        draw.rectangle((x, y + 4, x + box, y + 4 + box), fill=colour, outline=TEXT)
        draw.text((x + box + gap, y + height / 2), name, fill=TEXT, font=font, anchor="lm")
    return np.asarray(canvas)


def panel_row(images: Sequence[np.ndarray], titles: Sequence[str] | None = None, gap: int = 4) -> np.ndarray:
    """Pictures side by side, top-aligned on white, each under its title: uint8 [H, W, 3].

    Raises:
      ValueError: titles are given, but not one for each picture.
    """
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"each picture needs a title; received {len(titles)} titles, {len(images)} pictures")
    top = 0 if titles is None else TITLE_HEIGHT
    height = max(image.shape[0] for image in images) + top
    canvas = Image.new("RGB", (sum(image.shape[1] for image in images) + gap * (len(images) - 1), height), BACKGROUND)
    draw, x = ImageDraw.Draw(canvas), 0
    for number, image in enumerate(images):
        canvas.paste(Image.fromarray(image), (x, top))
        if titles is not None:
            draw.text((x + 2, top / 2), _shortened(titles[number], image.shape[1]), TEXT, _font(), anchor="lm")
        x += image.shape[1] + gap
    return np.asarray(canvas)


def panels_of_row(row: np.ndarray, count: int, titles: bool = True, gap: int = 4) -> list[np.ndarray]:
    """The pictures that `panel_row` put side by side, where they are of one size: `count` of uint8 [h, w, 3].

    Raises:
      ValueError: the row's size cannot be that of `count` pictures.
    """
    top = TITLE_HEIGHT if titles else 0
    width, left_over = divmod(row.shape[1] - gap * (count - 1), count)
    if left_over or width < 1 or row.shape[0] <= top:
        raise ValueError(f"a row of {count} pictures of one size must be given; received one of {row.shape[:2]} pixels")
    return [row[top:, number * (width + gap) :][:, :width] for number in range(count)]


def grid(rows: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures one below the other, left-aligned on white: uint8 [H, W, 3]."""
    height = sum(row.shape[0] for row in rows) + gap * (len(rows) - 1)
    canvas = np.full((height, max(row.shape[1] for row in rows), 3), BACKGROUND, np.uint8)
    y = 0
    for row in rows:
        canvas[y : y + row.shape[0], : row.shape[1]] = row
        y += row.shape[0] + gap
    return canvas


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=12)


def _shortened(text: str, width: int) -> str:
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
