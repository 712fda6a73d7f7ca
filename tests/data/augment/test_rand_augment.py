"""RandAugment's transforms against PIL, and how they are drawn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from segjax.core.batch import IGNORE_LABEL
from segjax.data.augment import rand_augment as ra

FILL = (110.0, 121.0, 90.0)
SIZE = (23, 36)
MAGNITUDE = 7.0


def example(seed=0, size=SIZE):
    """A smooth picture that does not reach 0 or 255, with noise, and a label with unlabelled pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 220, (4, 5, 3)).astype(np.uint8))
    image = np.asarray(coarse.resize(size[::-1])) + rng.integers(0, 20, (*size, 3))
    return image.astype(np.uint8), rng.choice(np.array([0, 1, 2, IGNORE_LABEL], np.uint8), size)


def affine(image, label, matrix):
    def moved(picture, resample, fill):
        return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill))

    fill = tuple(map(int, FILL))
    return moved(image, Image.Resampling.BILINEAR, fill), moved(label, Image.Resampling.NEAREST, IGNORE_LABEL)


def by_pil(op, image, label, sign):
    """The same of PIL at MAGNITUDE: uint8 image and label."""
    picture, part, original = Image.fromarray(image), MAGNITUDE / 10, label
    label = Image.fromarray(label)
    factor = 1 + 0.9 * part * sign
    match op:
        case "identity":
            result = picture
        case "autocontrast":
            result = ImageOps.autocontrast(picture)
        case "equalize":
            result = ImageOps.equalize(picture)
        case "posterize":
            result = ImageOps.posterize(picture, 8 - round(4 * part))
        case "solarize":
            result = ImageOps.solarize(picture, 256 * (1 - part))
        case "colour":
            result = ImageEnhance.Color(picture).enhance(factor)
        case "contrast":
            result = ImageEnhance.Contrast(picture).enhance(factor)
        case "brightness":
            result = ImageEnhance.Brightness(picture).enhance(factor)
        case "sharpness":
            result = ImageEnhance.Sharpness(picture).enhance(factor)
        case "shear_x":
            return affine(picture, label, (1, 0.3 * part * sign, 0, 0, 1, 0))
        case "shear_y":
            return affine(picture, label, (1, 0, 0, 0.3 * part * sign, 1, 0))
        case "translate_x":
            return affine(picture, label, (1, 0, sign * round(150 / 331 * part * image.shape[1]), 0, 1, 0))
        case "translate_y":
            return affine(picture, label, (1, 0, 0, 0, 1, sign * round(150 / 331 * part * image.shape[0])))
        case "rotate":
            angle, fill = 30 * part * sign, tuple(map(int, FILL))
            turned = picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill)
            return np.asarray(turned), np.asarray(label.rotate(angle, fillcolor=IGNORE_LABEL))
    return np.asarray(result), original


@pytest.fixture(scope="module")
def apply_op():
    """One compilation for all of them."""
    jitted = jax.jit(partial(ra.apply_op, magnitude=MAGNITUDE, fill=FILL))

    def apply(name, image, label, sign):
        image, maps = jitted(ra.OPS.index(name), image.astype(np.float32), {"label": label}, sign=sign)
        return np.asarray(image), np.asarray(maps["label"])

    return apply


@pytest.mark.parametrize("name", ra.OPS)
def test_each_op_is_that_of_pil(apply_op, name):
    """Exact, or within the one level by which float32 and float64, or in warps rounding and cutting, differ.

    PIL's nearest neighbour works in fixed point, 16 bits after the point: a point at a pixel's border may go to the
    other side.
    """
    image, label = example()
    exact = name in ("identity", "equalize", "posterize", "solarize", "translate_x", "translate_y")
    for sign in (1.0, -1.0):
        result, new_label = apply_op(name, image, label, sign)
        expected, expected_label = by_pil(name, image, label, sign)
        np.testing.assert_allclose(result, expected.astype(np.float32), atol=0 if exact else 1)
        assert (new_label != expected_label).mean() <= (0.005 if name in ra.GEOMETRY else 0)
        assert (result == np.round(result)).all()
        if name != "identity":
            assert (result != image).mean() > 0.1
        assert (new_label != label).any() == (name in ra.GEOMETRY)


@pytest.mark.parametrize("value", [0, 93, 255])
def test_an_image_of_one_colour(value):
    image = jnp.full((5, 4, 3), value, jnp.float32)
    for change in (ra.autocontrast, ra.equalize, ra.smooth):
        np.testing.assert_array_equal(change(image), image)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_thin_images(size):
    image = example(1, size)[0]
    picture, image = Image.fromarray(image), jnp.asarray(image, jnp.float32)
    np.testing.assert_array_equal(ra.equalize(image), np.asarray(ImageOps.equalize(picture)))
    np.testing.assert_allclose(ra.autocontrast(image), np.asarray(ImageOps.autocontrast(picture)), atol=1)
    sharp = ra.blend(ra.smooth(image), image, 0.4)
    np.testing.assert_allclose(sharp, np.asarray(ImageEnhance.Sharpness(picture).enhance(0.4)), atol=1)


def test_few_pixels_of_extreme_levels_are_equalized_as_in_pil():
    """A step of one pixel, and a last bin that PIL leaves out: the table goes beyond 255."""
    rng = np.random.default_rng(3)
    image = rng.choice(np.array([0, 7, 254, 255], np.uint8), (25, 30, 3), p=[0.7, 0.1, 0.19, 0.01])
    np.testing.assert_array_equal(
        ra.equalize(jnp.asarray(image, jnp.float32)), ImageOps.equalize(Image.fromarray(image))
    )


def test_magnitude_0_changes_no_more_than_the_histogram():
    image, label = example()
    jitted = jax.jit(partial(ra.apply_op, magnitude=0.0, fill=FILL))
    for name in set(ra.OPS) - {"autocontrast", "equalize"}:
        result, maps = jitted(ra.OPS.index(name), image.astype(np.float32), {"label": label}, sign=-1.0)
        np.testing.assert_array_equal(result, image)
        np.testing.assert_array_equal(maps["label"], label)


def test_ops_and_signs_are_drawn_uniformly(apply_op):
    """Each of 14 ops and, where it counts, each sign, recognised by its result; a second op goes on from the first."""
    image, label = example(size=(18, 26))  # more than 255 pixels, or equalizing does nothing

    def outcomes(image, label):
        """What each op and sign gives: (levels, label) as bytes -> (op, sign)."""
        found = {}
        for name in ra.OPS:
            for sign in (1.0, -1.0):
                result = apply_op(name, image, label, sign)
                found.setdefault((result[0].tobytes(), result[1].tobytes()), (name, sign))
        return found

    def drawn(ops, keys):
        def one(key):
            start = image.astype(np.float32), {"label": label}
            new_image, maps = ra.rand_augment(key, *start, ops=ops, magnitude=MAGNITUDE, fill=FILL)
            return new_image, maps["label"]

        return map(np.asarray, jax.jit(lambda keys: jax.lax.map(one, keys))(keys))

    count = 840
    keys = jax.random.split(jax.random.key(0), count)
    images, labels = drawn(1, keys)
    known = outcomes(image, label)
    seen = [known[one.tobytes(), new.tobytes()] for one, new in zip(images, labels, strict=True)]
    for name in ra.OPS:
        # Four standard deviations of a binomial variable around 60, and of a sum of 300 signs.
        assert abs(sum(op == name for op, _ in seen) - count / 14) < 4 * np.sqrt(count / 14)
    assert abs(sum(sign for op, sign in seen if op in ra.GEOMETRY)) < 4 * np.sqrt(count * 5 / 14)

    second_ops = set()
    for n, (one, new) in enumerate(zip(*drawn(2, keys[:6]), strict=True)):
        second_ops.add(outcomes(images[n], labels[n])[one.tobytes(), new.tobytes()])
    assert len(second_ops) > 2
