"""Matching and losses of mask classification against those of transformers at the same points, and against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from segjax import build
from segjax.core.batch import IGNORE_LABEL, NO_INSTANCE
from segjax.core.config import default_config
from segjax.data.dataset import DatasetInfo
from segjax.models.output import MaskOutput
from segjax.training import mask_classification as own
from segjax.training.mask_classification import Segments, mask_classification, segments_of
from tests.models.variables import fast_jit
from tests.references.pytorch import assert_close, library, torch

CLASSES, QUERIES, POINTS = 5, 7, 40
WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}


def label_of(rng, size=(12, 16), classes=(0, 2, 4)):
    """Blocks of a few classes; the others are absent."""
    coarse = rng.choice(classes, (size[0] // 4, size[1] // 4))
    return np.repeat(np.repeat(coarse, 4, 0), 4, 1).astype(np.uint8)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return {
        "label": np.stack([label_of(rng), label_of(rng, classes=(1, 3))]),
        "classes": (2 * rng.standard_normal((2, QUERIES, CLASSES + 1))).astype(np.float32),
        "masks": (2 * rng.standard_normal((2, QUERIES, 6, 8))).astype(np.float32),
        "places": rng.random((2, POINTS, 2)).astype(np.float32),
    }


def in_transformers(label):
    """(mask_labels, class_labels) as transformers takes them: one entry an image, only what is there."""
    present = [np.unique(each[each != IGNORE_LABEL]) for each in label]
    masks = [
        torch.from_numpy(np.stack([each == k for k in ks])).float() for each, ks in zip(label, present, strict=True)
    ]
    return masks, [torch.from_numpy(ks.astype(np.int64)) for ks in present]


@pytest.fixture
def reference():
    library("transformers")
    from transformers.models.mask2former import modeling_mask2former

    return modeling_mask2former


def their_matching(reference, case, monkeypatch):
    matcher = reference.Mask2FormerHungarianMatcher(2.0, 5.0, 5.0, POINTS)
    masks, classes = in_transformers(case["label"])
    drawn = iter(torch.from_numpy(case["places"][:, None]))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: next(drawn))
    pairs = matcher(torch.from_numpy(case["masks"]), torch.from_numpy(case["classes"]), masks, classes)
    monkeypatch.undo()
    return pairs, masks, classes


def our_matching(case):
    segments = segments_of(jnp.asarray(case["label"]), CLASSES)
    return own.match(case["classes"], case["masks"], segments, case["places"], WEIGHTS), segments


def test_the_matching_is_that_of_transformers(reference, case, monkeypatch):
    pairs, _, classes = their_matching(reference, case, monkeypatch)
    query, segments = our_matching(case)
    for image, (queries, numbers) in enumerate(pairs):
        present = classes[image][numbers].tolist()
        assert query[image, np.array(present)].tolist() == queries.tolist()
        assert sorted(present) == np.flatnonzero(segments.classes[image] >= 0).tolist()


def test_the_losses_are_those_of_transformers_with_their_gradients(reference, case, monkeypatch):
    pairs, masks, classes = their_matching(reference, case, monkeypatch)
    query, segments = our_matching(case)
    rng = np.random.default_rng(1)
    places = rng.random((2, CLASSES, POINTS, 2)).astype(np.float32)

    def ours(class_logits, mask_logits):
        chosen = jnp.take_along_axis(mask_logits, query[..., None, None], axis=1)
        return own.class_loss(class_logits, segments.classes, query, 0.1), *own.mask_losses(chosen, segments, places)

    theirs_in = [torch.from_numpy(case[name]).requires_grad_() for name in ("classes", "masks")]
    target = torch.full((2, QUERIES), CLASSES)
    logits, truths = [], []
    for image, (queries, numbers) in enumerate(pairs):
        target[image, queries] = classes[image][numbers]
        points = torch.from_numpy(places[image, classes[image][numbers].numpy()])
        logits.append(reference.sample_point(theirs_in[1][image][queries][:, None], points, align_corners=False)[:, 0])
        truths.append(reference.sample_point(masks[image][numbers][:, None], points, align_corners=False)[:, 0])
    logits, truths = torch.cat(logits), torch.cat(truths)
    weight = torch.ones(CLASSES + 1)
    weight[-1] = 0.1
    theirs = (
        torch.nn.functional.cross_entropy(theirs_in[0].transpose(1, 2), target, weight),
        reference.sigmoid_cross_entropy_loss(logits, truths, len(logits)),
        reference.dice_loss(logits, truths, len(logits)),
    )
    for number, value in enumerate(theirs):
        found, gradients = jax.value_and_grad(lambda *x, n=number: ours(*x)[n], (0, 1))(case["classes"], case["masks"])
        np.testing.assert_allclose(found, value.item(), rtol=1e-5)
        wanted = torch.autograd.grad(value, theirs_in, retain_graph=True, allow_unused=True)
        for mine, other in zip(gradients, wanted, strict=True):
            if other is None:
                assert not mine.any()
            else:
                assert_close(mine, other, 1e-5)


@pytest.mark.parametrize("present", [0, 1, 3, 5])
def test_the_assignment_is_as_cheap_as_scipys(present):
    rng = np.random.default_rng(present)
    for _ in range(10):
        costs = rng.standard_normal((QUERIES, 5)).astype(np.float32)
        costs[:, present:] = 0
        query = np.asarray(jax.jit(own._assign)(costs))
        assert len(set(query.tolist())) == 5
        rows, columns = scipy.optimize.linear_sum_assignment(costs[:, :present])
        np.testing.assert_allclose(
            costs[query[:present], np.arange(present)].sum(), costs[rows, columns].sum(), rtol=1e-5, atol=1e-6
        )


def test_segments_may_be_instances():
    label = np.array([[[0, 3, 3, 5], [0, 3, IGNORE_LABEL, 5]]], np.uint8)
    index = np.array([[[IGNORE_LABEL, 0, 1, 2], [IGNORE_LABEL, 0, 3, 2]]], np.uint8)
    found = segments_of(jnp.asarray(label), 6, jnp.asarray(index))
    assert found.classes.tolist() == [[3, 3, 5, -1, -1, -1]]
    assert found.labelled.tolist() == (label != IGNORE_LABEL).tolist()
    assert segments_of(jnp.asarray(label), 6).classes.tolist() == [[0, -1, -1, 3, -1, 5]]


@pytest.mark.parametrize("count, expected", [(4, [2, 2, 3, 3]), (3, [2, 2, 3]), (1, [2])])
def test_objects_are_counted_through_and_too_many_are_unlabelled(count, expected):
    """What a crop has left of many objects: numbers 7, 23, 254 and one above 255."""
    label = np.array([[[0, 2, 2, 3, 3, IGNORE_LABEL]]], np.uint8)
    index = np.array([[[IGNORE_LABEL, 7, 23, 254, 300, 23]]])
    found = segments_of(jnp.asarray(label), count, jnp.asarray(index))
    assert found.classes.tolist() == [expected]
    kept = [number if number < count else IGNORE_LABEL for number in range(4)]
    assert found.index.tolist() == [[[IGNORE_LABEL, *kept, IGNORE_LABEL]]]
    assert found.labelled.tolist() == [[[True, *(number < count for number in range(4)), False]]]


@pytest.mark.parametrize("segments", ["classes", "instances", "panoptic"])
def test_fewer_queries_than_classes_or_objects_do(case, segments):
    config = default_config()
    config.loss.masks.update(segments=segments, points=POINTS, instances=200)
    info = DatasetInfo("x", tuple(map(str, range(150))), np.zeros((150, 3), np.uint8), None, (0,) * 3, (1,) * 3, ())
    label = jnp.asarray(case["label"])
    batch = {"label": label, "instance": jnp.where(label == 4, 40, NO_INSTANCE).astype(jnp.uint8)}
    classes = jnp.zeros((*case["classes"].shape[:2], 151)) + case["classes"].sum(-1, keepdims=True)
    loss = fast_jit(build.mask_loss(config, info))
    loss, _ = loss(MaskOutput((classes,), (case["masks"],)), batch, jax.random.key(0))
    assert np.isfinite(loss)


def test_points_are_where_a_mask_is_least_certain():
    """A mask that is certain but for the columns around its middle."""
    from_middle = np.arange(32) - 15.5
    mask = np.where(np.abs(from_middle) < 2, 0.0, 20.0) * np.sign(from_middle)
    masks = jnp.asarray(np.broadcast_to(mask, (1, 2, 8, 32)))
    points = np.asarray(own.important_points(masks, jax.random.key(0), 800))
    assert points.shape == (1, 2, 800, 2) and points.min() >= 0 and points.max() < 1
    near = np.abs(points[..., 0] - 0.5) < 3 / 32
    # Three sixteenths of the image. Of 2400 points about 450 are drawn there, nearly all of which are kept.
    assert (near[..., :600].mean(-1) > 0.5).all()
    assert (np.abs(near[..., 600:].mean(-1) - 3 / 16) < 0.1).all()
    assert not np.array_equal(points[0, 0], points[0, 1])


def output_of(case, count=2):
    return MaskOutput((case["classes"],) * count, (case["masks"],) * count)


def test_all_predictions_add_up_and_a_key_gives_the_points(case):
    segments = segments_of(jnp.asarray(case["label"]), CLASSES)
    loss = jax.jit(lambda output, key: mask_classification(output, segments, key, points=POINTS))
    one, terms = loss(output_of(case, 1), jax.random.key(0))
    two, _ = loss(output_of(case, 2), jax.random.key(0))
    np.testing.assert_allclose(one, 2 * terms["class"] + 5 * terms["mask"] + 5 * terms["dice"], rtol=1e-6)
    assert 1.5 * one < two < 2.5 * one  # the same predictions at other points
    assert loss(output_of(case, 1), jax.random.key(0))[0] == one
    assert loss(output_of(case, 1), jax.random.key(1))[0] != one


def test_what_is_not_labelled_teaches_nothing(case):
    label = case["label"].copy()
    label[:, :, 8:] = IGNORE_LABEL
    segments = segments_of(jnp.asarray(label), CLASSES)

    def loss(masks):
        return mask_classification(MaskOutput((case["classes"],), (masks,)), segments, jax.random.key(0), points=200)[0]

    gradient = np.asarray(jax.jit(jax.grad(loss))(case["masks"]))
    assert np.abs(gradient[..., :4]).max() > 0
    # A point half a pixel inside takes from the logits on both sides of the border, and from none beyond.
    assert not gradient[..., 5:].any()


def test_an_image_without_segments_is_finite(case):
    segments = segments_of(jnp.full((2, 12, 16), IGNORE_LABEL, jnp.uint8), CLASSES)

    def loss(classes, masks):
        return mask_classification(MaskOutput((classes,), (masks,)), segments, jax.random.key(0), points=POINTS)

    (_, terms), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(case["classes"], case["masks"])
    assert terms["mask"] == terms["dice"] == 0
    none = -jax.nn.log_softmax(case["classes"])[..., -1].mean()
    np.testing.assert_allclose(terms["class"], none, rtol=1e-5)
    assert np.isfinite(gradients[0]).all() and not gradients[1].any()


def test_too_few_queries_are_an_error(case):
    segments = Segments(*segments_of(jnp.asarray(case["label"]), QUERIES + 1))
    with pytest.raises(ValueError, match="as many queries as an image may have segments, 8; it has 7"):
        mask_classification(output_of(case), segments, jax.random.key(0), points=POINTS)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ("classes", {0: 0, 1: 1, 3: 3}),
        ("instances", {0: 1, 1: 3, 2: 3}),
        ("panoptic", {0: 0, 1: 1, 2: 3, 3: 3}),
    ],
)
def test_the_config_says_what_a_segment_is(monkeypatch, segments, expected):
    """A background, one object of class 1 and two of class 3."""
    label = np.array([[[0, 1, 1, 3, 3, IGNORE_LABEL]]], np.uint8)
    instance = np.array([[[NO_INSTANCE, 0, 0, 1, 2, NO_INSTANCE]]], np.uint8)
    seen = []
    monkeypatch.setattr(build, "mask_classification", lambda output, segments, key, **options: seen.append(segments))
    config = default_config()
    config.loss.masks.update(segments=segments, instances=6)
    info = DatasetInfo("x", tuple("abcde"), np.zeros((5, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("train",))
    loss = build.mask_loss(config, info)
    output = MaskOutput((jnp.zeros((1, 20, CLASSES + 1)),), ())
    loss(output, {"label": jnp.asarray(label), "instance": jnp.asarray(instance)}, None)
    classes = seen[0].classes[0]
    assert {number: int(value) for number, value in enumerate(classes) if value >= 0} == expected
    if segments != "classes":
        with pytest.raises(ValueError, match="needs a data set with instances"):
            loss(output, {"label": jnp.asarray(label)}, None)


@pytest.mark.parametrize("segments", ["classes", "instances", "panoptic"])
def test_a_group_of_objects_is_a_class_but_no_object(monkeypatch, segments):
    """Two pixels of class 3, a thing, belong to no object: they are in no segment, and outside of none."""
    label = np.array([[[0, 3, 3, 3, IGNORE_LABEL]]], np.uint8)
    instance = np.array([[[NO_INSTANCE, 0, NO_INSTANCE, NO_INSTANCE, NO_INSTANCE]]], np.uint8)
    seen = []
    monkeypatch.setattr(build, "mask_classification", lambda output, segments, key, **options: seen.append(segments))
    config = default_config()
    config.loss.masks.update(segments=segments, instances=2)
    info = DatasetInfo(
        "x", tuple("abcde"), np.zeros((5, 3), np.uint8), None, (0, 0, 0), (1, 1, 1), ("train",), things=(3,)
    )
    batch = {"label": jnp.asarray(label), "instance": jnp.asarray(instance)}
    build.mask_loss(config, info)(MaskOutput((jnp.zeros((1, 20, CLASSES + 1)),), ()), batch, None)
    expected = {"classes": {0: 0, 3: 3}, "instances": {0: 3}, "panoptic": {0: 0, 1: 3}}[segments]
    assert {number: int(value) for number, value in enumerate(seen[0].classes[0]) if value >= 0} == expected
    assert seen[0].labelled[0, 0].tolist() == [True, True, *[segments == "classes"] * 2, False]


@pytest.mark.parametrize("side", [32, 33, 30, 5])
def test_masks_lie_where_their_label_does_at_any_size(side):
    """A pixel of the masks is a square of 4x4 of the image, also where part of the last one is outside of it."""
    squares = -(-side // 4)
    of_square = (np.add.outer(np.arange(squares), 2 * np.arange(squares)) // 4 % 2).astype(np.uint8)
    label = of_square.repeat(4, 0).repeat(4, 1)[None, :side, :side]
    masks = 20.0 * (of_square == np.arange(2)[:, None, None])[None] - 10.0
    segments = segments_of(jnp.asarray(label), 2)
    queries = jnp.zeros((1, 2, 3))

    def terms(**stride):
        output = MaskOutput((queries,), (jnp.asarray(masks, jnp.float32),), **stride)
        return mask_classification(output, segments, jax.random.key(0), points=4000)[1]

    whole = jnp.asarray(of_square.repeat(4, 0).repeat(4, 1)[None])
    output = MaskOutput((queries,), (jnp.asarray(masks, jnp.float32),))
    best = mask_classification(output, segments_of(whole, 2), jax.random.key(0), points=4000)[1]
    assert terms(stride=4)["dice"] < 1.3 * best["dice"] + 0.02
    if side % 4:
        assert terms()["dice"] > 1.3 * terms(stride=4)["dice"]
