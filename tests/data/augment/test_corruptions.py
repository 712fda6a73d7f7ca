"""Corruptions against SciPy, scikit-image, Pillow and formulas; what all of them must hold."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.color
import skimage.data
import skimage.metrics
from PIL import Image

from segjax.core.config import CORRUPTION_NAMES
from segjax.data.augment import corruptions, weather
from segjax.data.augment.blur import convolve, line_kernel
from segjax.data.augment.corruptions import CORRUPTIONS, corrupt, random_corruption
from segjax.data.augment.jpeg import jpeg
from tests.references.corruptions import diamond_square, disc

NO_KEY = jax.random.key(0)
PICTURE = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((57, 63)))
"""63x57 pixels, uint8. All tests have this size where they can: it is compilation that takes time."""

GREY = np.full(PICTURE.shape, 102, np.uint8)
COUNT = GREY.size
SCALE = 57 / 224

BRIGHTER_NOT_STRONGER = ("fog", "frost", "snow")
"""ImageNet-C's constants trade the brightness of these for their structure, e.g. snow of 2 is whiter than of 3."""


def corrupted(name, severity, image=PICTURE, seed=0):
    return np.asarray(corrupt(name, jax.random.key(seed), jnp.asarray(image), severity))


def test_names_of_the_config():
    assert tuple(CORRUPTIONS) == CORRUPTION_NAMES


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_grows_with_severity_is_repeatable_and_compiled_once(name):
    """The mean deviation, or where that is no measure 1 - SSIM, over three keys."""
    CORRUPTIONS[name].clear_cache()
    deviations = []
    for severity in range(1, 6):
        results = [corrupted(name, severity, seed=seed) for seed in range(3)]
        for found in results:
            assert found.shape == PICTURE.shape and found.dtype == np.float32
            assert found.min() >= 0 and found.max() <= 255
            np.testing.assert_array_equal(found, np.round(found))
        if name in BRIGHTER_NOT_STRONGER:
            original = PICTURE.astype(np.float32)
            options = {"data_range": 255, "channel_axis": -1}
            measured = [1 - skimage.metrics.structural_similarity(original, found, **options) for found in results]
        else:
            measured = [np.abs(found - PICTURE).mean() for found in results]
        deviations.append(np.mean(measured))
    assert deviations[1] > 0  # a blur of a quarter of a pixel changes nothing
    rising = np.diff(deviations[::4] if name == "snow" else deviations)
    assert (rising > 0).all(), deviations
    np.testing.assert_array_equal(corrupted(name, 3), corrupted(name, 3))
    assert CORRUPTIONS[name]._cache_size() == 1


def test_other_keys_give_other_noise():
    for name in ("gaussian_noise", "shot_noise", "impulse_noise", "fog", "frost", "snow", "rain", "night"):
        assert (corrupted(name, 3, seed=1) != corrupted(name, 3, seed=2)).mean() > 0.05


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size(name):
    sizes = ((1, 1), (7, 5))
    images = [jnp.asarray(PICTURE[:height, :width]) for height, width in sizes]
    function = jax.jit(lambda images: [CORRUPTIONS[name](NO_KEY, image, 5) for image in images])
    compiled = function.lower(images).compile({"xla_backend_optimization_level": 0})  # in half the time
    for size, found in zip(sizes, compiled(images), strict=True):
        assert found.shape == (*size, 3)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["motion_blur", "jpeg"])
def test_a_batch_is_its_images_one_by_one(name):
    keys, images = jax.random.split(NO_KEY, 2), jnp.asarray([PICTURE, PICTURE[::-1]])
    severities = jnp.array([2, 4])
    together = jax.vmap(CORRUPTIONS[name])(keys, images, severities)
    for key, image, severity, found in zip(keys, images, severities, together, strict=True):
        difference = np.abs(np.asarray(CORRUPTIONS[name](key, image, severity)) - found)
        # Sums in another order may round a value that lies between two whole numbers otherwise.
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_gaussian_noise_has_its_deviation():
    noise = corrupted("gaussian_noise", 1, GREY) - 102
    sigma = 0.08 * 255
    assert abs(noise.mean()) < 4 * sigma / np.sqrt(COUNT)
    # Rounding adds a variance of 1/12; the deviation of a sample deviation is sigma / sqrt(2 n).
    assert noise.std() == pytest.approx(np.hypot(sigma, 12**-0.5), abs=4 * sigma / np.sqrt(2 * COUNT))
    # Of neighbours and of channels it is independent.
    for shifted in (noise[1:] * noise[:-1], noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert abs(shifted.mean()) < 5 * sigma**2 / np.sqrt(shifted.size)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (4, 5), (5, 3)])
def test_shot_noise_counts_photons(severity, photons):
    found = corrupted("shot_noise", severity, GREY)
    counts = np.round(found / 255 * photons).astype(int)
    mean = photons * 102 / 255
    at_most = np.array([scipy.stats.poisson.cdf(count, mean) for count in range(photons)])
    expected = np.diff(at_most, prepend=0, append=1)  # the last is white: as many photons or more
    observed = np.bincount(counts.ravel(), minlength=photons + 1)
    often = expected * COUNT > 10
    statistic = ((observed - expected * COUNT) ** 2 / (expected * COUNT))[often].sum()
    assert scipy.stats.chi2.sf(statistic, often.sum() - 1) > 1e-4
    assert observed[expected * COUNT < 1e-3].sum() == 0


def test_impulse_noise_is_salt_and_pepper_in_each_channel():
    found = corrupted("impulse_noise", 5, GREY)
    assert set(np.unique(found)) == {0, 102, 255}
    for value in (0, 255):
        assert (found == value).mean() == pytest.approx(0.135, abs=4 * np.sqrt(0.135 / COUNT))
    both = ((found[..., 0] != 102) & (found[..., 1] != 102)).mean()
    assert both == pytest.approx(0.27**2, abs=4 * 0.27 / np.sqrt(COUNT / 3))


@pytest.mark.parametrize(("mode", "theirs"), [("edge", "nearest"), ("reflect", "mirror")])
def test_convolution_is_scipys(mode, theirs):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((9, 14, 2)).astype(np.float32), rng.random((11, 11)).astype(np.float32)
    expected = scipy.ndimage.convolve(image, kernel[..., None], mode=theirs)
    np.testing.assert_allclose(convolve(jnp.asarray(image), jnp.asarray(kernel), mode), expected, rtol=1e-5)


@pytest.mark.parametrize("severity", [1, 5])
def test_gaussian_blur_is_scipys(severity):
    sigma = (1, 2, 3, 4, 6)[severity - 1] * SCALE
    expected = scipy.ndimage.gaussian_filter(PICTURE.astype(float), (sigma, sigma, 0), mode="nearest", truncate=4)
    # Half a grey value by rounding, and float32.
    np.testing.assert_allclose(corrupted("gaussian_blur", severity), expected, atol=0.501)


@pytest.mark.parametrize("severity", [1, 5])
def test_defocus_blur_is_the_mean_of_a_disc(severity):
    kernel = disc((3, 4, 6, 8, 10)[severity - 1] * SCALE)
    expected = scipy.ndimage.convolve(PICTURE.astype(float), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(corrupted("defocus_blur", severity), expected, atol=0.501)


def test_motion_is_half_a_gaussian_along_a_line_around_its_centroid():
    """Along the x axis, samples half a pixel apart are shared between the two pixels beside them."""
    kernel = np.asarray(line_kernel(jnp.float32(6), jnp.float32(4), jnp.float32(0), 8))
    t = np.arange(0, 6.5, 0.5)
    weight = np.exp(-0.5 * (t / 4) ** 2)
    weight /= weight.sum()
    expected = np.zeros(17)
    for place, part in zip(t - weight @ t + 8, weight, strict=True):
        below = int(np.floor(place))
        expected[below] += part * (below + 1 - place)
        expected[below + 1] += part * (place - below)
    np.testing.assert_allclose(kernel[8], expected, atol=1e-6)
    assert np.delete(kernel, 8, 0).max() == 0
    for angle in (0.5, -2.0):
        kernel = np.asarray(line_kernel(jnp.float32(6), jnp.float32(4), jnp.float32(angle), 8))
        offset = np.arange(-8, 9)
        assert kernel.sum() == pytest.approx(1, abs=1e-6)
        centroid = kernel.sum(1) @ offset, kernel.sum(0) @ offset
        assert centroid == pytest.approx((0, 0), abs=1e-5)
        second = (kernel * np.outer(offset, offset)).sum()
        spread = weight @ (t - weight @ t) ** 2
        assert second == pytest.approx(spread * np.sin(angle) * np.cos(angle), abs=1e-5)


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur", "pixelate", "jpeg"])
def test_objects_stay_on_their_labels(name):
    image = np.zeros_like(PICTURE)
    image[20:36, 25:43] = 255
    found = corrupted(name, 5, image)[..., 0]
    for axis, middle in ((1, 27.5), (0, 33.5)):
        profile = found.sum(axis)
        # Cells of pixelate are 4 pixels.
        assert profile @ np.arange(profile.size) / profile.sum() == pytest.approx(middle, abs=0.5)


@pytest.mark.parametrize("crop", [(slice(0, 37), slice(100, 153)), (slice(0, 7), slice(3)), (slice(9, 10), slice(1))])
def test_jpeg_is_pillows(crop):
    image = np.ascontiguousarray(skimage.data.chelsea()[crop])
    ours = jax.jit(jpeg)
    for quality in (25, 18, 15, 10, 7, 75):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        theirs = np.asarray(Image.open(file)).astype(float)
        found = np.asarray(ours(jnp.asarray(image, jnp.float32), jnp.int32(quality)))
        # libjpeg's DCT is one of integers, so that now and then a coefficient is rounded to the other side; what is
        # lost by the compression is 3 to 10 grey values.
        assert np.abs(found - theirs).mean() <= 1
        assert (np.abs(found - theirs) <= 2).mean() > 0.9


def test_jpeg_takes_the_quality_of_its_severity():
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, "JPEG", quality=15)
    assert np.abs(corrupted("jpeg", 3) - np.asarray(Image.open(file)).astype(float)).mean() < 0.5


def test_pixelate_is_pillows_box():
    image = np.ascontiguousarray(skimage.data.astronaut()[100:164, 200:248])  # no pixel's middle between two cells
    for severity, size in enumerate((0.6, 0.5, 0.4, 0.3, 0.25), 1):
        small = Image.fromarray(image).resize((int(48 * size), int(64 * size)), Image.Resampling.BOX)
        expected = np.asarray(small.resize((48, 64), Image.Resampling.BOX)).astype(float)
        difference = np.abs(corrupted("pixelate", severity, image) - expected)
        # Pillow's weights have 22 bits.
        assert difference.max() <= 1 and difference.mean() < 0.01


def test_contrast_and_brightness_are_their_formulas():
    means = PICTURE.mean((0, 1))
    np.testing.assert_allclose(corrupted("contrast", 4), (PICTURE - means) * 0.1 + means, atol=0.501)
    image = PICTURE.copy()
    image[0, 0] = 0
    hsv = skimage.color.rgb2hsv(image / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.4, 0, 1)
    np.testing.assert_allclose(corrupted("brightness", 4, image), 255 * skimage.color.hsv2rgb(hsv), atol=0.501)


def test_plasma_is_diamond_square():
    draws = np.asarray(jax.random.uniform(NO_KEY, (4**4,), minval=-1.0))
    expected = diamond_square(draws[1:], 4, 1.5)
    plasma = jax.jit(lambda key, decay: weather.plasma(key, (13, 16), decay))
    np.testing.assert_allclose(plasma(NO_KEY, jnp.float32(1.5)), expected[:13], atol=1e-5)


def test_fog_keeps_the_largest_value_and_adds_plasma():
    image = PICTURE // 2
    found = corrupted("fog", 5, image)
    draws = np.asarray(jax.random.uniform(NO_KEY, (4**6,), minval=-1.0))
    clouds = diamond_square(draws[1:], 6, 1.4)[:63, :57, None]
    largest = image.max() / 255
    np.testing.assert_allclose(found, 255 * (image / 255 + 3 * clouds) * largest / (largest + 3), atol=0.51)


def test_night_is_dark_and_noisy():
    found = corrupted("night", 5, GREY)
    light = 0.35 * 0.4**1.6 * np.array([0.85, 0.95, 1.1])
    sigma = np.sqrt(light / 20 + 0.04**2)
    # What is below black is cut off: the mean and variance of max(x, 0) for normal x.
    a = light / sigma
    mean = light * scipy.stats.norm.cdf(a) + sigma * scipy.stats.norm.pdf(a)
    np.testing.assert_allclose(found.mean((0, 1)) / 255, mean, atol=4 * sigma.max() / np.sqrt(COUNT / 3))


def test_weather_lies_over_the_image():
    """Streaks of rain and flakes of snow are brighter than a dark image, streaks are nearly upright, ice is bluish."""
    dark = np.full_like(PICTURE, 30)
    layers = {name: corrupted(name, 5, dark, seed=1) for name in ("rain", "snow", "frost")}
    assert min(layers["rain"].max(), layers["snow"].max()) > 100
    streaks = layers["rain"].mean(-1) - layers["rain"].mean()
    along, across = (streaks[3:] * streaks[:-3]).mean(), (streaks[:, 3:] * streaks[:, :-3]).mean()
    assert along > across + 0.2 * streaks.var()
    assert (layers["frost"][..., 2] >= layers["frost"][..., 0]).all() and layers["frost"].std() > 20


def test_random_corruption_takes_each_name_and_severity_in_the_range():
    names, severities = ("contrast", "brightness"), (2, 3)
    image = jnp.asarray(PICTURE, jnp.float32)
    keys = jax.random.split(jax.random.key(1), 24)
    found = jax.jit(lambda keys: jax.lax.map(lambda key: random_corruption(key, image, names, severities), keys))(keys)
    possible = {(name, s): corrupted(name, s) for name in names for s in severities}
    seen = [next(k for k, v in possible.items() if np.array_equal(v, one)) for one in np.asarray(found)]
    assert set(seen) == set(possible)


def test_errors_say_what_must_hold():
    with pytest.raises(ValueError, match="did you mean 'frost'"):
        corrupt("forst", NO_KEY, jnp.asarray(PICTURE), 1)
    with pytest.raises(ValueError, match="severity must be one of .* received 6"):
        corrupt("fog", NO_KEY, jnp.asarray(PICTURE), 6)
    with pytest.raises(ValueError, match=r"\[H, W, 3\].*\[63, 57\]"):
        corrupt("fog", NO_KEY, jnp.asarray(PICTURE[..., 0]), 1)
    for names, severities, message in (((), (1, 5), "received none"), (("fog",), (3, 2), "1 <= lowest")):
        with pytest.raises(ValueError, match=message):
            random_corruption(NO_KEY, jnp.asarray(PICTURE), names, severities)
    assert corruptions.SEVERITIES == (1, 2, 3, 4, 5)
