"""Windows, scales and flips against loops in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segjax import build_evaluation
from segjax.evaluation.inference import build_predict, network_size, overlap_tile, resize, window_starts
from segjax.evaluation.protocol import Protocol
from segjax.models.fcn import FCN
from segjax.models.unet import UNet

CLASSES = 4


def local_apply(variables, image):
    """A "network" that looks at its 3x3 neighbourhood, so that borders matter."""
    return jax.lax.conv_general_dilated(image, variables, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def random_variables(model):
    """Parameters from NumPy: XLA takes seconds to compile an initialisation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    return jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def kernel():
    return jax.random.normal(jax.random.key(0), (3, 3, 3, CLASSES))


@pytest.fixture(scope="module")
def image():
    return jax.random.normal(jax.random.key(1), (2, 13, 17, 3))


@given(length=st.integers(1, 60), window=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_cover_everything_and_stay_inside(length, window, stride):
    stride = min(stride, window)
    starts = window_starts(length, window, stride)
    covered = set()
    for start in starts:
        assert start == 0 or start + window <= length
        covered |= set(range(start, start + window))
    assert covered >= set(range(length))
    assert starts == sorted(set(starts))


def test_whole_image_is_the_softmax(kernel, image):
    got = jax.jit(build_predict(local_apply))(kernel, image)
    np.testing.assert_allclose(got, jax.nn.softmax(local_apply(kernel, image)), rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "stride"), [((6, 5), (4, 3)), ((8, 8), (8, 8)), ((13, 17), (5, 5)), ((20, 9), (3, 9))]
)
def test_sliding_window_is_the_mean_of_crops(kernel, image, window, stride):
    got = jax.jit(build_predict(local_apply, window=window, stride=stride))(kernel, image)
    count, height, width, _ = image.shape
    padded = np.zeros((count, max(height, window[0]), max(width, window[1]), 3), np.float32)
    padded[:, :height, :width] = image
    total = np.zeros((*padded.shape[:3], CLASSES))
    times = np.zeros(padded.shape[1:3])
    for top in window_starts(padded.shape[1], window[0], stride[0]):
        for left in window_starts(padded.shape[2], window[1], stride[1]):
            crop = padded[:, top : top + window[0], left : left + window[1]]
            total[:, top : top + window[0], left : left + window[1]] += jax.nn.softmax(local_apply(kernel, crop))
            times[top : top + window[0], left : left + window[1]] += 1
    expected = (total / times[None, :, :, None])[:, :height, :width]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_default_stride_is_two_thirds(kernel, image):
    a = build_predict(local_apply, window=(6, 9))(kernel, image)
    b = build_predict(local_apply, window=(6, 9), stride=(4, 6))(kernel, image)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("size", "window"), [((40, 52), (16, 16)), ((33, 47), (16, 24)), ((5, 3), (8, 16))])
def test_tiles_of_a_unet_are_its_whole_image(size, window):
    """Without padding nothing is lost at a tile's edge: equal but for the order of float32 sums."""
    model = UNet(CLASSES, width=4, depth=2, padding="valid", norm="none")
    image = jax.random.normal(jax.random.key(2), (2, *size, 3))
    variables = random_variables(model)
    whole = jax.jit(model.apply)(variables, image)
    network = lambda x: model.apply(variables, x, method="network")  # noqa: E731
    tiled = jax.jit(lambda x: overlap_tile(network, x, window, model.tile_input(window)))(image)
    assert tiled.shape == (2, *size, CLASSES)
    np.testing.assert_allclose(tiled, whole, rtol=1e-5, atol=1e-5 * np.abs(whole).max())


def test_a_protocol_chooses_tiles():
    tiled = Protocol("test", "val", CLASSES, window=(16, 16), window_padding="mirror")
    fields = dict(width=2, depth=1, padding="valid", norm="none", dropout=0.5)
    model, image = UNet(CLASSES, **fields), jnp.ones((1, 20, 30, 3)) * jnp.arange(30.0)[:, None]
    variables = random_variables(model)
    got = jax.jit(build_evaluation.predictor(model, tiled, {}))(variables, image)
    np.testing.assert_allclose(got, jax.nn.softmax(model.apply(variables, image)), atol=1e-5)
    sampled = build_evaluation.uncertainty_predictor(model, tiled, samples=2)
    assert jax.eval_shape(sampled, variables, image, jax.random.key(0)).probabilities.shape == got.shape
    with pytest.raises(ValueError, match="needs a network without padding.*received FCN"):
        build_evaluation.predictor(FCN(CLASSES), tiled, {})


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), rows=st.integers(1, 11), columns=st.integers(1, 5))
def test_tiles_see_the_mirrored_image(height, width, rows, columns):
    """A network that copies the pixel 4 up and 3 to the left, and one 4 down, of its unpadded input."""
    image = np.random.default_rng(0).random((1, height, width, 2), np.float32)
    copy = lambda x: jnp.concatenate([x[:, :-8, :-6], x[:, 8:, :-6]], axis=-1)  # noqa: E731
    got = overlap_tile(copy, jnp.asarray(image), (rows, columns), (rows + 8, columns + 6))
    mirrored = np.pad(image, ((0, 0), (4, 4), (3, 3), (0, 0)), mode="reflect")
    expected = np.concatenate([mirrored[:, :-8, :-6], mirrored[:, 8:, :-6]], axis=-1)
    np.testing.assert_array_equal(got, expected)


def test_a_tile_bounds_the_memory_of_the_network():
    """Twice the image costs twice the logits, not twice the activations: by XLA's own count of temporaries."""
    model = UNet(2, width=8, depth=2, padding="valid", norm="none")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    network = lambda v, x: model.apply(v, x, method="network")  # noqa: E731
    temporary = {}
    for side in (64, 128):
        for window in (None, (32, 32)):
            tile = {"window": window, "tile_input": model.tile_input(window)} if window else {}
            predict = build_predict(network if window else model.apply, **tile)
            image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
            compiled = jax.jit(predict).lower(variables, image).compile()
            temporary[side, window] = compiled.memory_analysis().temp_size_in_bytes
    logits = 128 * 128 * 2 * 4
    assert temporary[128, (32, 32)] < temporary[64, (32, 32)] + 3 * logits
    assert temporary[128, None] > 2 * temporary[64, None]


def test_flip_is_the_mean_of_both(kernel, image):
    got = build_predict(local_apply, flip=True)(kernel, image)
    plain = jax.nn.softmax(local_apply(kernel, image))
    mirrored = jax.nn.softmax(local_apply(kernel, image[:, :, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(got, (plain + mirrored) / 2, rtol=1e-5)
    twice = build_predict(local_apply, flip=True)(kernel, image[:, :, ::-1])[:, :, ::-1]
    np.testing.assert_allclose(twice, got, rtol=1e-5)


def test_scales_are_averaged_at_the_image_size(kernel, image):
    got = build_predict(local_apply, scales=(0.5, 1.0))(kernel, image)
    small = resize(image, (7, 9))  # halves are rounded up: 6.5 and 8.5
    larger = jax.nn.softmax(resize(local_apply(kernel, small), (13, 17)))
    expected = (larger + jax.nn.softmax(local_apply(kernel, image))) / 2
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((375, 500), (512, 2048, 1), (512, 683)),  # by hand: 500 * 512 / 375 = 682.67
        ((500, 375), (512, 2048, 1), (683, 512)),
        ((100, 1000), (512, 2048, 1), (205, 2048)),  # the longer side is the limit: 204.8
        ((375, 500), (0, 250, 1), (188, 250)),  # 187.5 is rounded up
        ((375, 500), (512, 2048, 32), (512, 704)),
        ((33, 64), (0, 0, 32), (64, 64)),
        ((33, 64), (0, 0, 1), (33, 64)),
    ],
)
def test_the_network_sees_the_size_of_the_rule(size, limits, expected):
    assert network_size(size, 1.0, *limits) == expected


@pytest.mark.parametrize("size", [(375, 500), (683, 512), (100, 1000), (333, 334), (1, 7)])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.75])
def test_limits_are_those_of_mmcv(size, scale):
    """Its rescale_size: the smaller of two ratios, long edge and short edge, then int(side * ratio + 0.5)."""
    long_edge, short_edge = 2048 * scale, 512 * scale
    ratio = min(long_edge / max(size), short_edge / min(size))
    expected = tuple(max(1, int(side * ratio + 0.5)) for side in size)
    assert network_size(size, scale, 512, 2048) == expected


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 9), (20, 40), (13, 1), (1, 17)])
def test_resizing_is_pytorchs(image, size, align_corners):
    torch = pytest.importorskip("torch")
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(np.moveaxis(np.asarray(image), -1, 1).copy()),
        size,
        mode="bilinear",
        align_corners=align_corners,
    )
    found = resize(image, size, align_corners)
    # With align_corners both take the first pixel where one is left.
    np.testing.assert_allclose(found, np.moveaxis(wanted.numpy(), 1, -1), atol=2e-5)


def test_one_pixel_is_repeated_with_align_corners():
    found = resize(jnp.full((1, 1, 3, 2), 5.0), (4, 6), align_corners=True)
    np.testing.assert_allclose(found, 5.0)


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_protocols_size_is_that_of_the_network_and_labels_keep_theirs(kernel, image, align_corners):
    seen = []

    def apply(variables, x):
        seen.append(x.shape[1:3])
        return local_apply(variables, x)

    predict = build_predict(apply, short_side=8, resize_multiple=4, align_corners=align_corners)
    got = predict(kernel, image)
    assert seen == [(8, 12)]  # 17 * 8 / 13 = 10.46, 10, and 12 is the next multiple of 4
    small = resize(image, (8, 12), align_corners)
    expected = jax.nn.softmax(resize(local_apply(kernel, small), (13, 17), align_corners))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize("stride", [(3, 4), (5, 7)])
def test_what_is_constant_stays_so_under_overlapping_windows(image, stride, blend):
    same = lambda variables, x: jnp.broadcast_to(jnp.array([1.0, 2.0, -1.0]), (*x.shape[:3], 3))  # noqa: E731
    got = build_predict(same, window=(5, 7), stride=stride, window_blend=blend)({}, image)
    np.testing.assert_allclose(got, np.broadcast_to(jax.nn.softmax(jnp.array([1.0, 2.0, -1.0])), got.shape), atol=1e-6)


def test_windows_side_by_side_are_tiles(kernel):
    """With stride = window each pixel is that of its own tile, to the bit."""
    image = jax.random.normal(jax.random.key(3), (1, 12, 15, 3))
    apply = jax.jit(lambda variables, x: local_apply(variables, x))
    got = build_predict(apply, window=(6, 5), stride=(6, 5))(kernel, image)
    for top in (0, 6):
        for left in (0, 5, 10):
            tile = jax.nn.softmax(apply(kernel, image[:, top : top + 6, left : left + 5]))
            np.testing.assert_array_equal(got[:, top : top + 6, left : left + 5], tile)


def test_gaussian_blending_is_the_weighted_mean(kernel, image):
    window, stride = (6, 5), (3, 4)
    got = build_predict(local_apply, window=window, stride=stride, window_blend="gaussian")(kernel, image)
    total, times = np.zeros((2, 13, 17, CLASSES)), np.zeros((13, 17))
    weight = np.zeros(window)
    for y in range(6):
        for x in range(5):
            weight[y, x] = np.exp(-(((y - 2.5) / (6 / 8)) ** 2) / 2 - ((x - 2) / (5 / 8)) ** 2 / 2)
    weight = np.maximum(weight / weight.max(), 1e-3)
    for top in window_starts(13, 6, 3):
        for left in window_starts(17, 5, 4):
            crop = jax.nn.softmax(local_apply(kernel, image[:, top : top + 6, left : left + 5]))
            total[:, top : top + 6, left : left + 5] += weight[..., None] * crop
            times[top : top + 6, left : left + 5] += weight
    np.testing.assert_allclose(got, total / times[..., None], atol=1e-6)


@settings(max_examples=6, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), flip=st.booleans(), windowed=st.booleans())
def test_probabilities_sum_to_one_at_any_size(height, width, flip, windowed):
    kernel = jnp.ones((3, 3, 3, CLASSES))
    predict = build_predict(local_apply, window=(4, 4) if windowed else None, scales=(0.75, 1.0), flip=flip)
    got = predict(kernel, jnp.ones((1, height, width, 3)))
    assert got.shape == (1, height, width, CLASSES)
    np.testing.assert_allclose(got.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("window", [None, (6, 5)])
def test_what_is_not_a_number_stays_so(kernel, image, window, wrong):
    predict = build_predict(lambda variables, x: local_apply(variables, x) * variables.min(), window=window)
    run = jax.jit(predict)
    assert np.isfinite(run(kernel, image)).all()
    assert not np.isfinite(run(kernel.at[0].set(wrong), image)).any()


def test_errors():
    with pytest.raises(ValueError, match="tiles need a window and have no stride"):
        build_predict(local_apply, window=(4, 4), stride=(4, 4), tile_input=(8, 8))
    with pytest.raises(ValueError, match=r"must give logits of \(4, 4\) or more; it gives \(3, 3\)"):
        overlap_tile(lambda x: x[:, 1:, 1:], jnp.zeros((1, 9, 9, 3)), (4, 4), (4, 4))
    with pytest.raises(ValueError, match="padding='valid'; received 'same'"):
        UNet(2).tile_input((8, 8))
    with pytest.raises(ValueError, match="no pixel is left out"):
        build_predict(local_apply, window=(4, 4), stride=(5, 4))
    with pytest.raises(ValueError, match="scales"):
        build_predict(local_apply, scales=())
