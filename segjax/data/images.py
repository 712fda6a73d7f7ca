"""Picture files: any image becomes uint8 RGB, any mask becomes class indices; PNG is written."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Image.MAX_IMAGE_PIXELS = 2**29
"""Above it Pillow warns, and refuses what has twice as many: a scan of 30000x30000 pixels is read."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_STRETCHED_GREY = {"L;2": 85, "L;4": 17}
"""Pillow stretches 2 and 4 bit grey to 0..255 by these factors; in a mask they must be taken back."""

_PNG_AS_IS, _PNG_UP = 0, 2
"""Filters of a row (PNG specification, sec. 9)."""

_PNG_GREY, _PNG_RGB = 0, 2

_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(file: str | os.PathLike | bytes) -> np.ndarray:
    """An image file of any kind that Pillow reads, as uint8 [H, W, 3] RGB.

    EXIF orientation is applied. Grey becomes three equal channels, palettes are looked up. Transparent pixels
    are laid over white, as most viewers show them. 16 bit grey is divided by 257 and rounded, so that 65535
    becomes 255; of 16 bit colour Pillow keeps the upper byte. Of several frames the first is taken.

    Args:
      file: a path, or the bytes of a file.
    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no image, is truncated, or holds floating-point or 32 bit values; names the file.
    """
    image, _ = _opened(file)
    kind, image = image.format, ImageOps.exif_transpose(image)
    if image.mode == "I" and kind != "PPM":  # Pillow reads 16 bit PGM so
        raise ValueError(
            f"{_name(file)} must have values of 8 or 16 bits; it has 32, whose range is not stated. Save it with 8 or"
            " 16 bits a channel."
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        return np.repeat(_sixteen_to_eight(np.asarray(image), _name(file))[..., None], 3, axis=-1)
    if image.mode == "F":
        raise ValueError(
            f"{_name(file)} must have integer values; it has floating-point ones, whose range is not stated. "
            "Save it with 8 or 16 bits a channel."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def unturned(file: str | os.PathLike | bytes) -> np.ndarray:
    """`read_image` of 8 bit grey or colour without regard to EXIF: the pixels as they are stored."""
    return np.array(_opened(file)[0].convert("RGB"))


def read_mask(file: str | os.PathLike | bytes) -> np.ndarray:
    """A mask file as class indices, uint8 [H, W].

    Grey of 1, 2, 4, 8 or 16 bits gives its values as they are stored; a palette image gives its indices.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no image, is truncated, has colours, or has a value above 255; names the file.
    """
    values = read_indices(file)
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 or high > 255:
        raise ValueError(f"{_name(file)} must hold class indices of 0..255; it holds {low} to {high}")
    return values.astype(np.uint8)


def read_indices(file: str | os.PathLike | bytes) -> np.ndarray:
    """`read_mask` of a file whose values may be above 255, integers [H, W]."""
    (image, raw_mode), name = _opened(file), _name(file)
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise ValueError(
            f"{name} must hold one class index a pixel; its mode is {image.mode!r}. " + _advice(np.array(image))
        )
    return np.array(image) // np.uint8(_STRETCHED_GREY.get(raw_mode, 1))


def page_count(file: str | os.PathLike) -> int:
    """How many pages a TIFF has; 1 for other images. Raises like `read_image`."""
    try:
        with Image.open(file) as image:
            return getattr(image, "n_frames", 1)
    except _READ_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} can't be read as an image: {error}") from error


def page_bytes(file: str | os.PathLike, page: int) -> bytes:
    """One page of a TIFF, from 0, as PNG with the same values.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no image, is truncated, or has no such page; names the file.
    """
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            image.seek(page)
            image.save(buffer, "PNG", compress_level=1)
    except _READ_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"page {page} of {file} can't be read: {error}") from error
    return buffer.getvalue()


def read_palette(file: str | os.PathLike | bytes) -> np.ndarray | None:
    """The colours of a palette image, uint8 [count, 3]; None for another kind. Raises like `read_image`."""
    image, _ = _opened(file)
    return np.array(image.getpalette(), np.uint8).reshape(-1, 3) if image.mode == "P" else None


def _advice(values: np.ndarray) -> str:
    colours = values[..., :3]
    if values.ndim == 3 and (values.shape[-1] < 3 or (colours == colours[..., :1]).all()):
        return "If its first channel holds the index, rewrite it: Image.open(path).getchannel(0).save(path)"
    return """If each colour is a class, rewrite it with one index a pixel, for example:
    import numpy as np
    from PIL import Image
    colours = [(0, 0, 0), (128, 0, 0)]  # the colour of class 0, of class 1, ...
    rgb = np.array(Image.open(path).convert("RGB"))
    index = np.full(rgb.shape[:2], 255, np.uint8)  # 255: not labelled
    for value, colour in enumerate(colours):
        index[(rgb == colour).all(axis=-1)] = value
    Image.fromarray(index).save(path)"""


def image_size(file: str | os.PathLike | bytes) -> tuple[int, int]:
    """(height, width) as `read_image` would give it, from the header alone. Raises as `read_image` does."""
    try:
        with Image.open(_source(file)) as image:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except FileNotFoundError:
        raise
    except _READ_ERRORS as error:
        raise ValueError(f"{_name(file)} can't be read as an image: {error}") from error


_EXIF_ORIENTATION = 0x0112


def png_bytes(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] or [H, W] as a PNG that is decoded fast.

    A row of colours is stored as its difference from the row above, with run-length coding; maps, which repeat
    themselves, as they are. Pillow, which takes for each row the filter that makes it smallest, writes photographs 8 %
    smaller, and needs 1.7 times the time to decode them, mostly for the Paeth filter.
    """
    height, width = image.shape[:2]
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or not image.size:
        raise ValueError(f"an image must be uint8 [H, W, 3] or [H, W]; received {image.dtype} {list(image.shape)}")
    rows, colour = image.reshape(height, -1), image.ndim == 3
    kind, strategy = (_PNG_UP, zlib.Z_RLE) if colour else (_PNG_AS_IS, zlib.Z_DEFAULT_STRATEGY)
    coded = np.empty((height, 1 + rows.shape[1]), np.uint8)
    coded[:, 0], coded[:, 1:] = kind, rows
    if colour:
        coded[1:, 1:] -= rows[:-1]
    compressor = zlib.compressobj(1, strategy=strategy)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_RGB if colour else _PNG_GREY, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": compressor.compress(coded) + compressor.flush(), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )


def channel_statistics(images: Sequence[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel over all pixels of uint8 [..., 3] images, in 0..255.

    Sums are integers, hence exact. Each pixel counts alike, so a larger image counts more.
    """
    count, total, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
    for image in images:
        pixels = image.reshape(-1, 3).astype(np.int64)
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
    if count == 0:
        raise ValueError("the mean of no pixels is not defined: give at least one image")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def readable(read: Callable[[Path], np.ndarray], paths: Sequence[Path]) -> list[np.ndarray]:
    """`read` of each path in threads, in order, without those that can't be read."""

    def attempt(path):
        try:
            return read(path)
        except (OSError, ValueError):
            return None

    with ThreadPoolExecutor() as pool:
        return [array for array in pool.map(attempt, paths) if array is not None]


def _sixteen_to_eight(values: np.ndarray, name: str) -> np.ndarray:
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(f"{name} must have values of 0..65535; it has {values.min()} to {values.max()}")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _opened(file) -> tuple[Image.Image, str]:
    """The decoded image and how its file stores a pixel; any error of Pillow's becomes one with the name."""
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    try:
        image = Image.open(io.BytesIO(data))
        raw_mode = image.tile[0].args if image.tile else ""
        image.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"{_name(file)} can't be read as an image: its kind is unknown") from error
    except _READ_ERRORS as error:
        raise ValueError(f"{_name(file)} can't be read as an image: {error}") from error
    return image, raw_mode if isinstance(raw_mode, str) else ""


def _source(file):
    return io.BytesIO(file) if isinstance(file, bytes) else file


def _name(file) -> str:
    return f"an image of {len(file)} bytes" if isinstance(file, bytes) else str(file)
