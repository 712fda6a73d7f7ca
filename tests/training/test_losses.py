import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import PIXEL_WEIGHTED_LOSSES
from segjax.training import losses
from tests.references import losses as reference

CLASSES = 5
SHAPE = (8, 3, 2)
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.0)
ADDED = (10 * np.random.default_rng(5).random(SHAPE) ** 3).astype(np.float32)
"""Weights of the pixels, as a border weight."""

CASES = {
    "cross_entropy": ("cross_entropy", {}),
    "cross_entropy_weighted": ("cross_entropy", {"class_weights": WEIGHTS}),
    "cross_entropy_smoothed": ("cross_entropy", {"label_smoothing": 0.1}),
    "cross_entropy_both": ("cross_entropy", {"class_weights": WEIGHTS, "label_smoothing": 0.2}),
    "dice": ("dice", {}),
    "dice_unsmoothed": ("dice", {"smoothing": 0.0}),
    "focal": ("focal", {}),
    "focal_weighted": ("focal", {"gamma": 0.5, "alpha": WEIGHTS}),
    "focal_0": ("focal", {"gamma": 0.0}),
    "lovasz_softmax": ("lovasz_softmax", {}),
    "ohem_by_threshold": ("ohem_cross_entropy", {"threshold": 0.3, "min_kept": 0}),
    "ohem_by_count": ("ohem_cross_entropy", {"threshold": 1e-6, "min_kept": 7}),
    "ohem_by_both": ("ohem_cross_entropy", {"threshold": 0.2, "min_kept": 12, "class_weights": WEIGHTS}),
    "ohem_all": ("ohem_cross_entropy", {"threshold": 0.1, "min_kept": 10_000}),
}

ONE_EACH = ("cross_entropy_both", "dice", "focal_weighted", "lovasz_softmax", "ohem_by_both")
"""A case of each loss, for what depends little on its parameters and costs a compilation each."""


def fast(case):
    name, parameters = CASES[case]
    return functools.partial(losses.LOSSES[name], **parameters)


@functools.cache
def value_and_grad(case):
    return jax.jit(jax.value_and_grad(fast(case)))


@functools.cache
def weighted(case):
    return jax.jit(jax.value_and_grad(lambda logits, label, weight: fast(case)(logits, label, weight=weight)))


def slow(case):
    name, parameters = CASES[case]
    return functools.partial(getattr(reference, name), **parameters)


def example(shape=SHAPE, seed=0):
    """Logits and a label in which class 3 is absent and a quarter of the pixels is ignored."""
    rng = np.random.default_rng(seed)
    logits = (2 * rng.normal(size=(*shape, CLASSES))).astype(np.float32)
    label = rng.choice([0, 1, 2, 4], size=shape).astype(np.uint8)
    label[rng.random(shape) < 0.25] = IGNORE_LABEL
    return logits, label


def test_every_loss_has_a_case():
    assert {CASES[case][0] for case in ONE_EACH} == set(losses.LOSSES)
    assert {name for name, _ in CASES.values()} == set(losses.LOSSES)


@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case):
    logits, label = example()
    loss, _ = value_and_grad(case)(logits, label)
    # float32 against float64: a few roundings of numbers near 1.
    np.testing.assert_allclose(loss, slow(case)(logits, label), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("case", ONE_EACH)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 11)])
def test_equals_reference_at_other_sizes(case, shape):
    logits, label = example(shape, seed=1)
    label[0, 0, 0] = 1
    loss, _ = value_and_grad(case)(logits, label)
    np.testing.assert_allclose(loss, slow(case)(logits, label), rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_finite_differences(case):
    logits, label = example(seed=3)
    _, gradient = value_and_grad(case)(logits, label)
    numerical = reference.numerical_gradient(lambda x: slow(case)(x, label), logits)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-4, atol=1e-7)
    assert np.abs(numerical).max() > 1e-3


TAKES_WEIGHT = [case for case in ONE_EACH if "weight" in inspect.signature(losses.LOSSES[CASES[case][0]]).parameters]
TAKES_WEIGHT += ["cross_entropy"]


def test_the_config_names_the_losses_that_take_weights():
    assert {CASES[case][0] for case in TAKES_WEIGHT} == set(PIXEL_WEIGHTED_LOSSES)


@pytest.mark.parametrize("case", TAKES_WEIGHT)
def test_weights_of_pixels_are_added_to_those_of_classes(case):
    logits, label = example()
    loss, gradient = weighted(case)(logits, label, ADDED)
    np.testing.assert_allclose(loss, slow(case)(logits, label, weight=ADDED), rtol=2e-6)
    numerical = reference.numerical_gradient(lambda x: slow(case)(x, label, weight=ADDED), logits)
    np.testing.assert_allclose(gradient, numerical, rtol=1e-4, atol=1e-7)
    ignored = label == IGNORE_LABEL
    changed = np.where(ignored, np.nan, ADDED)  # whatever it is there, it counts for nothing
    again, again_gradient = weighted(case)(np.where(ignored[..., None], np.inf, logits), label, changed)
    assert again == loss
    np.testing.assert_array_equal(again_gradient, gradient)
    assert weighted(case)(logits, label, np.zeros_like(ADDED))[0] == value_and_grad(case)(logits, label)[0]


def test_a_weight_by_hand():
    """Two pixels of class 0 with log-losses log 2 and log 4, the second with 2 added: (log 2 + 3 log 4) / 4."""
    logits = np.log(np.array([[[[0.5, 0.5], [0.25, 0.75]]]], np.float32))
    loss = losses.cross_entropy(logits, np.zeros((1, 1, 2), np.uint8), weight=np.array([[[0.0, 2.0]]], np.float32))
    np.testing.assert_allclose(loss, 7 / 4 * np.log(2), rtol=1e-6)


def test_weights_over_eight_devices_equal_one():
    logits, label = example(seed=1)
    label[1], label[2] = IGNORE_LABEL, 4
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    on_8 = jax.device_put((logits, label, ADDED), NamedSharding(mesh, PartitionSpec("data")))
    sharded_loss, sharded_gradient = weighted("cross_entropy")(*on_8)
    loss, gradient = weighted("cross_entropy")(logits, label, ADDED)
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(sharded_gradient, gradient, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_normaliser_adds_the_weights_of_labelled_pixels(class_weights):
    _, label = example()
    of_class = np.ones(CLASSES) if class_weights is None else class_weights
    pairs = zip(label.ravel().tolist(), ADDED.ravel().tolist(), strict=True)
    expected = sum(of_class[value] + extra for value, extra in pairs if value != IGNORE_LABEL)
    np.testing.assert_allclose(losses.normaliser(label, class_weights, ADDED), expected, rtol=1e-6)


def test_build_loss_hands_weights_on_or_refuses_them():
    logits, label = example()
    terms = {"cross_entropy": 1.0, "focal": 2.0, "dice": 0.0}
    loss, values = losses.build_loss(terms, num_classes=CLASSES)(logits, label, ADDED)
    expected = {name: getattr(reference, name)(logits, label, weight=ADDED) for name in ("cross_entropy", "focal")}
    np.testing.assert_allclose(loss, expected["cross_entropy"] + 2 * expected["focal"], rtol=2e-6)
    assert set(values) == set(expected)
    for name in ("dice", "lovasz_softmax"):
        loss_fn = losses.build_loss({"cross_entropy": 1.0, name: 0.1}, num_classes=CLASSES)
        with pytest.raises(ValueError, match=f"must be one of cross_entropy, focal.*received {name}"):
            loss_fn(logits, label, ADDED)


@pytest.mark.parametrize("case", ONE_EACH)
def test_label_dtypes_agree(case):
    logits, label = example()
    loss, _ = value_and_grad(case)(logits, label)
    assert loss == value_and_grad(case)(logits, label.astype(np.int32))[0]


@pytest.mark.parametrize("case", CASES)
def test_ignored_pixels_give_no_loss_and_no_gradient(case):
    logits, label = example()
    ignored = label == IGNORE_LABEL
    loss, gradient = value_and_grad(case)(logits, label)
    assert not np.asarray(gradient)[ignored].any()
    assert np.asarray(gradient)[~ignored].any()
    for value in (0.0, 1e30, -1e30, np.inf, np.nan):
        logits[ignored] = value
        logits[ignored, 0] = 1.0
        changed_loss, changed_gradient = value_and_grad(case)(logits, label)
        assert changed_loss == loss
        np.testing.assert_array_equal(changed_gradient, gradient)


@pytest.mark.parametrize("case", CASES)
def test_nothing_labelled_gives_exactly_zero(case):
    logits, label = example()
    loss, gradient = value_and_grad(case)(logits, np.full_like(label, IGNORE_LABEL))
    assert loss == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("case", CASES)
def test_padded_examples_change_nothing(case):
    logits, label = example()
    label[5:] = IGNORE_LABEL
    loss, _ = value_and_grad(case)(logits, label)
    np.testing.assert_allclose(loss, slow(case)(logits[:5], label[:5]), rtol=2e-6)


@pytest.mark.parametrize("case", ONE_EACH)
@pytest.mark.parametrize("value", [CLASSES, -1])
def test_a_label_that_is_no_class_gives_nan(case, value):
    logits, label = example()
    label = label.astype(np.int32)
    label[0, 0, 0] = value
    assert np.isnan(value_and_grad(case)(logits, label)[0])


@pytest.mark.parametrize("case", ONE_EACH)
def test_computes_in_float32(case):
    logits, label = example()
    half = jnp.asarray(logits, jnp.bfloat16)
    loss, _ = value_and_grad(case)(half, label)
    assert loss.dtype == jnp.float32
    rounded = np.asarray(half.astype(jnp.float32))
    np.testing.assert_allclose(loss, slow(case)(rounded, label), rtol=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_extreme_logits_stay_finite(case):
    """Certain and right, certain and wrong, and all alike: the loss and its gradient are finite."""
    _, label = example()
    right = 1e4 * (label[..., None] == np.arange(CLASSES))
    for logits in (right, -right, np.zeros_like(right)):
        loss, gradient = value_and_grad(case)(logits.astype(np.float32), label)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("case", ONE_EACH)
def test_batch_over_eight_devices_equals_one(case):
    logits, label = example(seed=1)
    label[1], label[2] = IGNORE_LABEL, 4  # examples, and so devices, of unequal weight
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    assert mesh.size == 8
    logits_8, label_8 = jax.device_put((logits, label), NamedSharding(mesh, PartitionSpec("data")))
    sharded_loss, sharded_gradient = value_and_grad(case)(logits_8, label_8)
    assert len(sharded_gradient.sharding.device_set) == 8
    loss, gradient = value_and_grad(case)(logits, label)
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(sharded_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_certain_and_right_costs_nothing():
    _, label = example()
    logits = 100 * (label[..., None] == np.arange(CLASSES)).astype(np.float32)
    for case in CASES.keys() - {"cross_entropy_smoothed", "cross_entropy_both"}:
        np.testing.assert_allclose(value_and_grad(case)(logits, label)[0], 0, atol=1e-6, err_msg=case)


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]], np.float32))
    label = np.array([[[0, 2]]], np.uint8)
    np.testing.assert_allclose(losses.cross_entropy(logits, label), np.log([2, 10]).mean(), rtol=1e-6)
    weighted = losses.cross_entropy(logits, label, class_weights=(3.0, 1.0, 1.0))
    np.testing.assert_allclose(weighted, (3 * np.log(2) + np.log(10)) / 4, rtol=1e-6)


def test_lovasz_at_a_vertex_is_the_jaccard_loss():
    """For a hard prediction the extension is 1 - IoU, here of classes 0 and 1: 2/4 and 1/3 (by counting)."""
    label = np.array([[[0, 0, 0, 1, 1]]], np.uint8)
    prediction = np.array([[[0, 0, 1, 0, 1]]])
    logits = 100 * (prediction[..., None] == np.arange(2)).astype(np.float32)
    np.testing.assert_allclose(jax.jit(losses.lovasz_softmax)(logits, label), 1 - (2 / 4 + 1 / 3) / 2, rtol=1e-6)


def test_lovasz_slopes_do_not_cancel_with_many_pixels():
    """Alg. 1 takes differences, near 1 / P, of the cumulated Jaccard loss: here in float64."""
    rng = np.random.default_rng(0)
    errors = rng.permutation(2**17).astype(np.float32)[None] / 2**17
    foreground = rng.random(errors.shape) < 0.3
    order = np.argsort(-errors[0])
    ranked = foreground[0, order]
    intersection = ranked.sum() - np.cumsum(ranked)
    union = ranked.sum() + np.cumsum(~ranked)
    expected = np.empty(errors.size)
    expected[order] = np.diff(1 - intersection / union, prepend=0.0)
    slopes = jax.jit(losses._lovasz_slopes)(errors, foreground)
    np.testing.assert_allclose(slopes[0], expected, rtol=1e-5)


def test_kth_largest_equals_sorting():
    values = np.random.default_rng(0).exponential(size=101).astype(np.float32)
    values[::5] = -1.0  # ignored
    values[1:9] = values[1]  # ties
    values[11] = 0.0
    ordered = np.sort(values[values >= 0])[::-1]
    for k in (1, 2, 9, 40, len(ordered)):
        assert losses._kth_largest(jnp.asarray(values), k) == ordered[k - 1]
    assert losses._kth_largest(jnp.asarray(values), len(ordered) + 1) == 0


@pytest.mark.parametrize("class_weights", [None, WEIGHTS])
def test_normaliser_counts_the_weight_of_labelled_pixels(class_weights):
    _, label = example()
    weights = np.ones(CLASSES) if class_weights is None else class_weights
    expected = sum(weights[value] for value in label.ravel() if value != IGNORE_LABEL)
    np.testing.assert_allclose(losses.normaliser(label, class_weights), expected, rtol=1e-6)
    assert losses.normaliser(np.full_like(label, IGNORE_LABEL), class_weights) == 0


def test_normaliser_makes_accumulation_exact():
    logits, label = example((4, 5, 6))
    label[0] = IGNORE_LABEL
    label[1, :4] = IGNORE_LABEL
    terms = {"cross_entropy": 1.0, "focal": 0.5}
    loss_fn = losses.build_loss(terms, num_classes=CLASSES, class_weights=WEIGHTS, label_smoothing=0.1)
    of_terms = jax.jit(jax.value_and_grad(lambda x, y: loss_fn(x, y)[0]))
    loss, gradient = of_terms(logits, label)
    shares = [float(losses.normaliser(label[i : i + 1], WEIGHTS)) for i in range(4)]
    assert shares[0] == 0
    parts = [of_terms(logits[i : i + 1], label[i : i + 1]) for i in range(4)]
    mean = sum(w * part for w, (part, _) in zip(shares, parts, strict=True)) / sum(shares)
    np.testing.assert_allclose(mean, loss, rtol=1e-6)
    for i, (w, (_, part)) in enumerate(zip(shares, parts, strict=True)):
        np.testing.assert_allclose(w * part[0] / sum(shares), gradient[i], rtol=1e-5, atol=1e-8)


def test_build_loss_is_the_weighted_sum():
    logits, label = example()
    terms = {
        "cross_entropy": 0.5,
        "dice": 2.0,
        "lovasz_softmax": 0.0,
        "focal": 1.0,
        "ohem_cross_entropy": 3.0,
    }
    loss_fn = losses.build_loss(
        terms,
        num_classes=CLASSES,
        class_weights=WEIGHTS,
        label_smoothing=0.1,
        dice_smoothing=3.0,
        focal_gamma=1.5,
        ohem_threshold=0.2,
        ohem_min_kept=5,
    )
    loss, values = jax.jit(loss_fn)(logits, label)
    expected = {
        "cross_entropy": reference.cross_entropy(logits, label, WEIGHTS, 0.1),
        "dice": reference.dice(logits, label, 3.0),
        "focal": reference.focal(logits, label, 1.5, WEIGHTS),
        "ohem_cross_entropy": reference.ohem_cross_entropy(logits, label, WEIGHTS, 0.2, 5),
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(loss, sum(terms[name] * value for name, value in expected.items()), rtol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": {"cross_entrop": 1.0}}, "'cross_entrop' is unknown.*'cross_entropy'.*lovasz_softmax"),
        ({"terms": {"dice": -1.0}}, "'dice' has -1.0"),
        ({"terms": {"dice": float("nan")}}, "'dice' has nan"),
        ({"terms": {"dice": 0.0}}, "at least one loss"),
        ({"terms": {}}, "at least one loss"),
        ({"class_weights": (1.0, 2.0)}, "one a class, 5 in all; received shape \\[2\\]"),
        ({"class_weights": (1.0, 2.0, -1.0, 1.0, 1.0)}, "class_weights must be finite, >= 0"),
        ({"class_weights": (0.0,) * 5}, "not all 0"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in \\[0, 1\\); received 1.0"),
        ({"dice_smoothing": -1.0}, "dice_smoothing"),
        ({"focal_gamma": -1.0}, "focal_gamma"),
        ({"ohem_threshold": 0.0}, "ohem_threshold"),
        ({"ohem_min_kept": -1}, "ohem_min_kept"),
    ],
)
def test_build_loss_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.build_loss(**{"terms": {"cross_entropy": 1.0}, "num_classes": CLASSES, **arguments})


def test_shapes_and_dtypes_are_checked():
    logits, label = example()
    with pytest.raises(ValueError, match="same size; received logits"):
        losses.cross_entropy(logits, label[:, :-1])
    with pytest.raises(ValueError, match="same size as the label; received weight"):
        losses.cross_entropy(logits, label, weight=ADDED[:, :-1])
    with pytest.raises(ValueError, match="integers; received float32"):
        losses.cross_entropy(logits, label.astype(np.float32))
    loss_fn = losses.build_loss({"dice": 1.0}, num_classes=CLASSES + 1)
    with pytest.raises(ValueError, match="built for 6 classes"):
        loss_fn(logits, label)
