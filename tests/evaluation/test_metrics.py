import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segjax.core.batch import IGNORE_LABEL
from segjax.evaluation import metrics
from tests.references import metrics as reference

CLASSES = 4
SHAPE = (3, 4, 5)
few = settings(max_examples=40, deadline=None)


@st.composite
def predictions_and_labels(draw):
    """Of one shape, since each one is compiled, with any classes absent and any pixels ignored."""
    classes = st.sampled_from(draw(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=CLASSES)))
    prediction = draw(hnp.arrays(np.uint8, SHAPE, elements=classes))
    label = draw(hnp.arrays(np.uint8, SHAPE, elements=classes | st.just(IGNORE_LABEL)))
    return prediction, label


def confusion(prediction, label, num_classes=CLASSES):
    return np.asarray(metrics.confusion_matrix(prediction, label, num_classes), np.int64)


def random_pair(shape, classes, seed=0):
    rng = np.random.default_rng(seed)
    prediction = rng.integers(0, classes, shape, dtype=np.uint8)
    label = rng.integers(0, classes, shape, dtype=np.uint8)
    label[rng.random(shape) < 0.2] = IGNORE_LABEL
    return prediction, label


def assert_same_scores(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize(("shape", "classes"), [((1, 1, 1), 2), ((3, 7, 11), 6), ((2, 97, 131), 150)])
def test_confusion_counts_pixels(shape, classes):
    prediction, label = random_pair(shape, classes)
    expected = np.zeros((shape[0], classes, classes), int)
    for n, y, x in np.ndindex(shape):
        if label[n, y, x] != IGNORE_LABEL:
            expected[n, label[n, y, x], prediction[n, y, x]] += 1
    per_image = metrics.per_image_confusion(prediction, label, classes)
    assert per_image.dtype == jnp.int32
    np.testing.assert_array_equal(per_image, expected)
    np.testing.assert_array_equal(confusion(prediction, label, classes), expected.sum(0))


def test_confusion_of_another_dtype():
    prediction, label = random_pair((2, 5, 3), CLASSES)
    wide = confusion(prediction.astype(np.int32), label.astype(np.int32))
    np.testing.assert_array_equal(wide, confusion(prediction, label))


def test_what_is_no_class_is_not_counted_as_another():
    prediction = np.array([[[0, 3, 255, 1]]], np.uint8)
    label = np.array([[[3, 0, 1, 1]]], np.uint8)
    np.testing.assert_array_equal(confusion(prediction, label, 3), np.diag([0, 1, 0]))
    signed = confusion(np.array([[[-1, 1]]]), np.array([[[1, -1]]]), 3)
    assert not signed.any()


def test_confusion_of_a_batch_on_eight_devices():
    prediction, label = random_pair((8, 5, 7), CLASSES)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    assert mesh.size == 8
    batch, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))
    sharded = jax.device_put((prediction, label), batch)
    count = jax.jit(metrics.confusion_matrix, static_argnums=2, out_shardings=whole)
    np.testing.assert_array_equal(count(*sharded, CLASSES), confusion(prediction, label))
    # Each device counts its own images: what is exchanged is the matrix, never the pixels.
    program = count.lower(*sharded, CLASSES).compile().as_text()
    assert "all-reduce" in program
    assert "all-gather" not in program


def test_confusion_refuses():
    prediction, label = random_pair((2, 5, 3), CLASSES)
    with pytest.raises(ValueError, match="received \\[2, 5, 3\\] and \\[2, 5, 2\\]"):
        metrics.confusion_matrix(prediction, label[..., :2], CLASSES)
    with pytest.raises(ValueError, match="prediction must hold integers; received float32"):
        metrics.confusion_matrix(prediction.astype(np.float32), label, CLASSES)
    huge = jax.ShapeDtypeStruct((2**15, 2**8, 2**8), jnp.uint8)
    with pytest.raises(ValueError, match="at most 2147483647 pixels.*received 2147483648"):
        jax.eval_shape(lambda p, t: metrics.confusion_matrix(p, t, CLASSES), huge, huge)


@pytest.mark.parametrize("start", [0, 2**31 - 1, 2**32 - 3, 2**32 - 1, 2**33 - 1, 2**40 + 7])
@pytest.mark.parametrize("step", [0, 1, 3, 2**31 - 1])
def test_counts_are_exact_across_32_bits(start, step):
    split = divmod(start, 2**32)
    state = metrics.ExactCounts(*(jnp.full((2, 2), part, jnp.uint32) for part in reversed(split)))
    add = jax.jit(metrics.add_counts)
    expected = np.full((2, 2), start)
    np.testing.assert_array_equal(metrics.counts(state), expected)
    for _ in range(3):
        batch = np.array([[step, 0], [1, step]], np.int32)
        state = add(state, batch)
        expected = expected + batch
    total = metrics.counts(state)
    assert total.dtype == np.int64
    np.testing.assert_array_equal(total, expected)


def test_counts_start_at_zero_and_refuse_another_shape():
    state = metrics.init_counts((3, 3))
    assert not metrics.counts(state).any()
    with pytest.raises(ValueError, match="int32 or uint32 \\[3, 3\\]; received int32 \\[3\\]"):
        metrics.add_counts(state, jnp.zeros(3, jnp.int32))
    with pytest.raises(ValueError, match="received float32"):
        metrics.add_counts(state, jnp.zeros((3, 3)))


@few
@given(predictions_and_labels())
def test_scores_equal_sets_of_pixels(pair):
    assert_same_scores(metrics.scores(confusion(*pair)), reference.scores(*pair, CLASSES))
    per_image = metrics.per_image_iou_mean(metrics.per_image_confusion(*pair, CLASSES))
    np.testing.assert_allclose(per_image, reference.per_image_iou_mean(*pair, CLASSES), rtol=1e-12)


@few
@given(predictions_and_labels(), st.permutations(range(SHAPE[0])))
def test_the_order_of_images_does_not_matter(pair, order):
    prediction, label = pair
    np.testing.assert_array_equal(confusion(prediction[order], label[order]), confusion(*pair))


@few
@given(predictions_and_labels())
def test_confusion_has_every_labelled_pixel_once(pair):
    prediction, label = pair
    matrix = confusion(prediction, label)
    for c in range(CLASSES):
        assert matrix[c].sum() == (label == c).sum()
        assert matrix[:, c].sum() == ((prediction == c) & (label != IGNORE_LABEL)).sum()


@few
@given(predictions_and_labels())
def test_a_perfect_prediction_scores_one(pair):
    prediction, label = pair
    right = np.where(label == IGNORE_LABEL, prediction, label)
    result = metrics.scores(confusion(right, label))
    for name, value in result.items():
        if (label == IGNORE_LABEL).all():
            assert np.isnan(value).all(), name
        else:
            assert np.nanmin(value) == np.nanmax(value) == 1, name
    present = np.isin(np.arange(CLASSES), label)
    np.testing.assert_array_equal(np.isnan(result["iou"]), ~present)


@few
@given(predictions_and_labels())
def test_iou_is_at_most_dice(pair):
    result = metrics.scores(confusion(*pair))
    defined = ~np.isnan(result["iou"])
    np.testing.assert_array_equal(defined, ~np.isnan(result["dice"]))
    assert (result["iou"][defined] <= result["dice"][defined]).all()
    # D = 2 J / (1 + J)
    np.testing.assert_allclose(result["dice"], 2 * result["iou"] / (1 + result["iou"]), rtol=1e-12)


@few
@given(predictions_and_labels(), st.integers(0, CLASSES - 1))
def test_ignored_pixels_change_nothing(pair, value):
    prediction, label = pair
    changed = np.where(label == IGNORE_LABEL, np.uint8(value), prediction)
    np.testing.assert_array_equal(confusion(changed, label), confusion(prediction, label))
    more = metrics.per_image_confusion(
        np.concatenate([prediction, changed]),
        np.concatenate([label, np.full_like(label, IGNORE_LABEL)]),
        CLASSES,
    )
    few_images = metrics.per_image_confusion(prediction, label, CLASSES)
    np.testing.assert_equal(metrics.per_image_iou_mean(more), metrics.per_image_iou_mean(few_images))


def test_scores_by_hand():
    """Class 2 is predicted but never labelled, class 3 is nowhere."""
    matrix = np.array([[6, 2, 0, 0], [1, 3, 4, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    nan = np.nan
    expected = {
        "iou": [6 / 9, 3 / 10, 0, nan],
        "mIoU": (6 / 9 + 3 / 10) / 3,
        "pixel_accuracy": 9 / 16,
        "accuracy": [6 / 8, 3 / 8, nan, nan],
        "mean_accuracy": 9 / 16,
        "frequency_weighted_iou": (6 / 9 + 3 / 10) / 2,
        "dice": [12 / 15, 6 / 13, 0, nan],
        "mean_dice": (12 / 15 + 6 / 13) / 3,
    }
    assert_same_scores(metrics.scores(matrix), expected)


def test_per_image_mean_by_hand():
    matrices = np.array([[[3, 1], [0, 0]], [[0, 0], [0, 2]], [[0, 0], [0, 0]]])
    # The first: 3/4 and 0; the second has class 1 only: 1; the third has no labelled pixel.
    np.testing.assert_allclose(metrics.per_image_iou_mean(matrices), (3 / 8 + 1) / 2)


def test_scores_are_exact_beyond_32_bits():
    """mIoU of counts that neither int32 nor float32 can hold."""
    big = 2**40 + 1
    result = metrics.scores(np.array([[big, 1], [0, big]]))
    np.testing.assert_allclose(1 - result["mIoU"], 1 / (big + 1), rtol=1e-3)


def test_nothing_labelled_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = metrics.scores(np.zeros((3, 3), np.int64))
        assert all(np.isnan(value).all() for value in result.values())
        assert np.isnan(metrics.per_image_iou_mean(np.zeros((2, 3, 3), np.int64)))
        assert np.isnan(metrics.per_image_iou_mean(np.zeros((0, 3, 3), np.int64)))
        assert np.isnan(metrics.expected_calibration_error(metrics.init_calibration()))


@pytest.mark.parametrize(
    "counts", [np.zeros((2, 3), int), np.zeros((2, 2)), np.array([[1, -1], [0, 0]]), np.zeros(4, int)]
)
def test_scores_refuse(counts):
    with pytest.raises(ValueError, match="non-negative integers \\[C, C\\]"):
        metrics.scores(counts)
    with pytest.raises(ValueError, match="non-negative integers \\[N, C, C\\]"):
        metrics.per_image_iou_mean(counts)


def test_calibration_error_equals_reference():
    prediction, label = random_pair((4, 13, 17), CLASSES)
    confidence = np.random.default_rng(1).random(label.shape).astype(np.float32)
    confidence[0, 0, :4] = [0.0, 1.0, 0.5, 1e-9]
    state = metrics.init_calibration()
    for n in range(0, 4, 2):
        batch = slice(n, n + 2)
        state = metrics.add_calibration(state, confidence[batch], prediction[batch], label[batch])
    expected = reference.expected_calibration_error(confidence, prediction, label)
    assert expected > 0.1
    # Confidences are rounded to 1 / 65535.
    np.testing.assert_allclose(metrics.expected_calibration_error(state), expected, atol=1 / 131070)
    assert metrics.counts(state.count).sum() == (label != IGNORE_LABEL).sum()


def test_calibration_by_hand():
    """Two bins: at 0.9 three of four are right, at 0.3 one of two; ECE = (4 * 0.15 + 2 * 0.2) / 6."""
    confidence = np.array([[[0.9, 0.9, 0.9, 0.9, 0.3, 0.3, 0.99]]], np.float32)
    label = np.array([[[0, 0, 0, 1, 0, 1, IGNORE_LABEL]]], np.uint8)
    state = metrics.add_calibration(metrics.init_calibration(), confidence, np.zeros(label.shape, np.int32), label)
    np.testing.assert_allclose(metrics.expected_calibration_error(state), 1 / 6, atol=1e-5)


def test_bins_are_open_below_and_closed_above():
    """Bin m is ((m - 1) / M, m / M] (Guo et al. 2017, sec. 2), and 0 is in the first; 1/3 is an edge."""
    for value, wanted in ((0.0, 0), (1 / 3, 4), (np.nextafter(np.float32(1 / 3), 1), 5), (1.0, 14)):
        one = np.ones((1, 1, 1), np.uint8)
        state = metrics.add_calibration(metrics.init_calibration(), np.full(one.shape, value, np.float32), one, one)
        assert metrics.counts(state.count).argmax() == wanted, value


def test_calibration_of_a_batch_on_eight_devices_is_identical():
    prediction, label = random_pair((8, 5, 7), CLASSES)
    confidence = np.random.default_rng(1).random(label.shape).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    sharded = jax.device_put((confidence, prediction, label), NamedSharding(mesh, PartitionSpec("data")))
    state = metrics.add_calibration(metrics.init_calibration(), confidence, prediction, label)
    of_eight = metrics.add_calibration(metrics.init_calibration(), *sharded)
    jax.tree.map(np.testing.assert_array_equal, state, of_eight)


@pytest.mark.parametrize("shape", [(1, 4096, 4096), (1, 4097, 4096)])
def test_calibration_sums_are_exact_for_large_batches(shape):
    """All pixels in one bin at confidence 1: the largest sums there can be, of bytes and of 4 bits, thrice."""
    confidence, zeros = jnp.ones(shape), jnp.zeros(shape, jnp.uint8)
    state = metrics.init_calibration()
    for _ in range(3):
        state = metrics.add_calibration(state, confidence, zeros, zeros)
    pixels = 3 * math.prod(shape)
    assert metrics.counts(state.count)[-1] == metrics.counts(state.correct)[-1] == pixels
    assert metrics.counts(state.confidence)[-1] == 65535 * pixels
    assert metrics.expected_calibration_error(state) == 0
    with pytest.raises(ValueError, match="at most 268435456 pixels"):
        more = jax.ShapeDtypeStruct((17, *shape[1:]), jnp.uint8)
        jax.eval_shape(metrics.add_calibration, state, more, more, more)


def test_calibration_refuses_another_shape():
    prediction, label = random_pair((2, 5, 3), CLASSES)
    with pytest.raises(ValueError, match="confidence and label"):
        metrics.add_calibration(metrics.init_calibration(), np.ones((2, 5), np.float32), prediction, label)
