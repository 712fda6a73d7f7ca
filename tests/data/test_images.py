import io

import numpy as np
import pytest
from PIL import Image

from segjax.data.images import (
    channel_statistics,
    image_size,
    png_bytes,
    read_image,
    read_mask,
    read_palette,
    readable,
)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)


@pytest.fixture
def colour():
    return np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_rgb_is_read_as_it_is(colour, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(colour), kind, **options)), colour)


def test_grey_becomes_three_equal_channels(grey):
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(grey))), np.stack([grey, grey, grey], axis=-1))


def test_one_bit_becomes_black_and_white(grey):
    bits = grey > 127
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(bits)))[..., 1], 255 * bits)


def test_sixteen_bit_grey_is_divided_by_257():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        image = read_image(encoded(Image.fromarray(values), kind))
        np.testing.assert_array_equal(image[0, :, 0], [0, 0, 1, 1, 128, 254, 255, 255])
        assert image.shape == (1, 8, 3)


def test_thirty_two_bits_are_refused_and_a_grey_map_of_sixteen_is_none():
    values = np.array([[0, 128, 255, 65535]])
    with pytest.raises(ValueError, match="8 or 16 bits; it has 32"):
        read_image(encoded(Image.fromarray(values.astype(np.int32)), "TIFF"))
    pgm = b"P5 4 1 65535\n" + values.astype(">u2").tobytes()
    assert Image.open(io.BytesIO(pgm)).mode == "I"
    assert read_image(pgm)[0, :, 0].tolist() == [0, 0, 1, 255]


def test_a_large_scan_is_no_bomb(monkeypatch):
    assert Image.MAX_IMAGE_PIXELS == 2**29
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(ValueError, match="can't be read as an image"):
        read_image(encoded(Image.new("L", (3, 3)), "PNG"))


def test_transparent_pixels_are_laid_over_white(colour):
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[0], alpha[1] = 255, 128
    image = read_image(encoded(Image.fromarray(np.concatenate([colour, alpha], axis=-1))))
    np.testing.assert_array_equal(image[0], colour[0])
    half = colour[1] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(image[1], half, atol=1)
    assert (image[2:] == 255).all()


def test_palette_is_looked_up():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([1, 2, 3, 40, 50, 60, 7, 8, 9])
    np.testing.assert_array_equal(read_image(encoded(image)), [[[1, 2, 3], [40, 50, 60], [7, 8, 9]]])


@pytest.mark.parametrize(("orientation", "turns", "flip"), [(1, 0, 0), (2, 0, 1), (3, 2, 0), (6, -1, 0), (8, 1, 0)])
def test_exif_orientation_is_applied(colour, orientation, turns, flip):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(colour), exif=exif)
    expected = np.rot90(colour[:, ::-1] if flip else colour, turns)
    np.testing.assert_array_equal(read_image(data), expected)
    assert image_size(data) == expected.shape[:2]


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="floating-point"):
        read_image(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.95])
def test_a_truncated_file_raises_with_its_name(tmp_path, read, keep):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    data = encoded(Image.fromarray(grey))
    path = tmp_path / "broken.png"
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"broken\.png can't be read"):
        read(path)


def test_a_truncated_jpeg_raises(tmp_path, colour):
    path = tmp_path / "broken.jpg"
    data = encoded(Image.fromarray(np.tile(colour, (20, 20, 1))), "JPEG")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"broken\.jpg can't be read"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_mask, image_size])
def test_what_is_no_image_and_what_is_missing(tmp_path, read):
    path = tmp_path / "text.png"
    path.write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.png can't be read"):
        read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.png")


def test_mask_values_are_read_as_stored(grey):
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(grey))), grey)
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(grey > 9))), grey > 9)
    np.testing.assert_array_equal(read_mask(encoded(Image.fromarray(grey.astype(np.uint16)))), grey)
    assert read_mask(encoded(Image.fromarray(grey > 9))).dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_masks_give_their_indices(grey, bits):
    indices = grey >> (8 - bits)
    image = Image.fromarray(indices)
    image.putpalette(np.random.default_rng(2).integers(0, 256, 3 * 2**bits).tolist())
    data = encoded(image, bits=bits)
    np.testing.assert_array_equal(read_mask(data), indices)
    assert read_palette(data).shape[1] == 3
    assert read_palette(encoded(Image.fromarray(grey))) is None


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_are_not_stretched(bits):
    """Made by hand, since Pillow writes no such files: a PNG of 4 x 1 pixels with the values 0, 1, 2, 3."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = {2: bytes([0b00011011]), 4: bytes([0x01, 0x23])}[bits]
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(b"\x00" + row)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(read_mask(data), [[0, 1, 2, 3]])


def test_a_mask_value_above_255_is_refused(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"deep\.png must hold class indices of 0\.\.255; it holds 0 to 256"):
        read_mask(path)


def test_the_lines_that_a_colour_mask_is_refused_with_do_map_it(tmp_path):
    index = np.array([[0, 1], [1, 255]], np.uint8)
    rgb = np.array([(0, 0, 0), (128, 0, 0), (9, 9, 9)], np.uint8)[np.where(index == 255, 2, index)]
    path = tmp_path / "colour.png"
    Image.fromarray(rgb).save(path)
    with pytest.raises(ValueError, match=r"colour\.png must hold one class index") as caught:
        read_mask(path)
    lines = str(caught.value).split("for example:\n")[1]
    exec("\n".join(line[4:] for line in lines.splitlines()), {"path": path})
    np.testing.assert_array_equal(read_mask(path), index)


def test_a_grey_mask_saved_in_colour_gets_another_advice(grey):
    with pytest.raises(ValueError, match=r"getchannel\(0\)"):
        read_mask(encoded(Image.fromarray(np.stack([grey] * 3, axis=-1))))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (1, 1)])
def test_png_bytes_keep_every_value(shape):
    image = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    data = png_bytes(image)
    Image.open(io.BytesIO(data)).verify()  # checksums
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


@pytest.mark.parametrize("image", [np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5)), np.zeros((0, 5), np.uint8)])
def test_png_bytes_are_of_8_bit_images(image):
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\] or \[H, W\]; received"):
        png_bytes(image)


def test_channel_statistics_are_those_of_all_pixels_together():
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, shape).astype(np.uint8) for shape in ((3, 5, 3), (2, 9, 4, 3), (1, 1, 3))]
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-9)
    with pytest.raises(ValueError, match="no pixels"):
        channel_statistics([])


def test_readable_keeps_the_order_and_leaves_out_what_fails(tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(paths[-1])
    paths[3].write_text("broken")
    assert [int(mask[0, 0]) for mask in readable(read_mask, [*paths, tmp_path / "none.png"])] == [
        0,
        1,
        2,
        4,
        5,
    ]
