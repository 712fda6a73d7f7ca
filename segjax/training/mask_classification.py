"""The loss of mask classification: each segment is matched with one query, whose class and mask it then teaches.

Cheng et al. 2022 (Mask2Former, arXiv:2112.01527), sections 3.3 and 4.1; Cheng et al. 2021 (MaskFormer,
arXiv:2107.06278), section 3.2. Segments are classes of an image, or its instances. All is done on the device, the
matching too.

Deviation: a point that lies on an unlabelled pixel counts nowhere, as in our other losses; in the authors' code it lies
outside of every mask. An image without a labelled pixel teaches its queries "no object", as theirs does.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from segjax.core import sharding
from segjax.core.batch import IGNORE_LABEL
from segjax.models.output import MaskOutput

OVERSAMPLING = 3
"""Points that are drawn for each one that is kept, as in the authors' configs."""

IMPORTANT = 0.75
"""Share of the kept points that are the least certain of those drawn; the others are uniform. As in the configs."""


class Segments(NamedTuple):
    """What is to be found in N images, K segments at most in each.

    Attributes:
      index: int32 [N, H, W], which segment a pixel belongs to: 0..K-1, or IGNORE_LABEL for none.
      labelled: bool [N, H, W].
      classes: int32 [N, K], -1 where the image has no such segment.
    """

    index: jax.Array
    labelled: jax.Array
    classes: jax.Array


NUMBERS = 512
"""Segments are numbered below this before `segments_of` counts them through."""


def segments_of(label: jax.Array, count: int, index: jax.Array | None = None) -> Segments:
    """Segments from a label.

    Args:
      label: integers [N, H, W], classes or IGNORE_LABEL.
      count: K.
      index: integers [N, H, W], each pixel's segment, numbers below NUMBERS with any gaps, or IGNORE_LABEL for none;
        the pixels of a segment have one class. Those that an image has are counted through in order, and where they
        are more than K, the pixels of the others are unlabelled. None: each class is a segment, of its own number.
    """
    label = label.astype(jnp.int32)
    labelled = label != IGNORE_LABEL
    if index is None:
        index = label
    else:
        index, labelled = _counted_through(index.astype(jnp.int32), labelled, count)
    of_none = -jnp.ones(count, jnp.int32)
    classes = jax.vmap(lambda i, c: of_none.at[i.ravel()].max(c.ravel(), mode="drop"))(
        jnp.where(labelled, index, IGNORE_LABEL), label
    )
    return Segments(index, labelled, classes)


def _counted_through(index, labelled, count):
    """(index 0..K-1 or IGNORE_LABEL, labelled without the segments that are too many)."""

    def of_one(index, labelled):
        number = jnp.where(labelled, index, IGNORE_LABEL)
        there = jnp.zeros(NUMBERS, bool).at[number.ravel()].set(True).at[IGNORE_LABEL].set(False)
        place = jnp.where(there, jnp.cumsum(there) - 1, count)[number]
        return jnp.where(place < count, place, IGNORE_LABEL), labelled & ((place < count) | (number == IGNORE_LABEL))

    return jax.vmap(of_one)(index, labelled)


def mask_classification(
    output: MaskOutput,
    segments: Segments,
    key: jax.Array,
    *,
    points: int,
    class_weight: float = 2.0,
    mask_weight: float = 5.0,
    dice_weight: float = 5.0,
    no_object_weight: float = 0.1,
) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """The sum over all predictions of class, mask and Dice loss.

    Args:
      output: of the model in training; as many queries as segments at least.
      segments: K at most in each image.
      key: for the points; each prediction has its own.
      points: at which masks are compared, 12,544 (112 x 112) as published.
      class_weight, mask_weight, dice_weight: of the three, in the matching too (section 4.1).
      no_object_weight: of queries that are matched with no segment, in the class loss.
    Returns:
      (loss, {"class", "mask", "dice": of the last prediction, before weighting}), float32 scalars. The class loss is
      the weighted mean over all queries, the others are means over the segments of the whole batch.
    Raises:
      ValueError: there are fewer queries than segments, or more segments than numbers.
    """
    weights = {"class": class_weight, "mask": mask_weight, "dice": dice_weight}
    queries, count = output.class_logits[-1].shape[1], segments.classes.shape[1]
    if queries < count:
        raise ValueError(f"a model needs as many queries as an image may have segments, {count}; it has {queries}")
    if count > IGNORE_LABEL:
        raise ValueError(f"an image may have {IGNORE_LABEL} segments at most; received {count}")
    if output.stride:
        segments = _with_border(segments, [output.stride * length for length in output.mask_logits[0].shape[2:]])
    total, terms = 0.0, {}
    for number, (classes, masks) in enumerate(zip(output.class_logits, output.mask_logits, strict=True)):
        match_key, loss_key = jax.random.split(jax.random.fold_in(key, number))
        places = jax.random.uniform(match_key, (masks.shape[0], points, 2))
        query = match(classes, masks, segments, places, weights)
        of_segments = jnp.take_along_axis(masks, query[..., None, None], axis=1)
        places = important_points(of_segments, loss_key, points)
        mask, dice = mask_losses(of_segments, segments, places)
        terms = {"class": class_loss(classes, segments.classes, query, no_object_weight), "mask": mask, "dice": dice}
        total = total + sum(weights[name] * value for name, value in terms.items())
    return total, terms


def _with_border(segments, size):
    """With unlabelled pixels at the bottom and at the right, up to a size (height, width)."""
    pads = ((0, 0), *((0, after - before) for before, after in zip(segments.index.shape[1:], size, strict=True)))
    index = jnp.pad(segments.index, pads, constant_values=IGNORE_LABEL)
    return segments._replace(index=index, labelled=jnp.pad(segments.labelled, pads))


def match(
    class_logits: jax.Array, mask_logits: jax.Array, segments: Segments, places: jax.Array, weights: Mapping[str, float]
) -> jax.Array:
    """Which query is each segment's, at the least total cost: int32 [N, K].

    Segments that are not there cost nothing with any query, and take some that are left.

    Args:
      class_logits: float32 [N, Q, C + 1]; mask_logits: float32 [N, Q, h, w].
      places: float32 [N, P, 2], the points (x, y) at which masks are compared, in parts of width and height.
    """

    def of_one(shared, class_logits, mask_logits, places, *segments):
        del shared
        costs = jax.vmap(lambda *one: _costs(*one, weights))(class_logits, mask_logits, places, *segments)
        return jax.vmap(_assign)(costs)

    arguments = jax.lax.stop_gradient((class_logits, mask_logits, places))
    return sharding.by_examples(of_one, (), *arguments, *segments)


def _costs(class_logits, mask_logits, places, index, labelled, classes, weights):
    """[Q, K] of one image; the parts of section 3.2 of MaskFormer, with the mean over points for the focal loss."""
    logits = _at(mask_logits, places)
    truth, counts = _truth(index, labelled, places, classes.shape[0])
    number = jnp.maximum(counts.sum(), 1.0)
    inside, outside = jax.nn.softplus(-logits) * counts, jax.nn.softplus(logits) * counts
    mask = (inside @ truth.T + outside @ (1 - truth).T) / number
    chance = jax.nn.sigmoid(logits) * counts
    dice = 1 - (2 * chance @ truth.T + 1) / (chance.sum(-1)[:, None] + (truth * counts).sum(-1) + 1)
    found = -jax.nn.softmax(class_logits)[:, classes]
    total = weights["class"] * found + weights["mask"] * mask + weights["dice"] * dice
    return jnp.where(classes >= 0, jnp.nan_to_num(total, nan=1e10, posinf=1e10, neginf=1e10), 0.0)


def _assign(costs):
    queries, segments = optax.assignment.hungarian_algorithm(costs)
    return jnp.zeros(costs.shape[1], jnp.int32).at[segments].set(queries.astype(jnp.int32))


def class_loss(class_logits: jax.Array, classes: jax.Array, query: jax.Array, no_object_weight: float) -> jax.Array:
    """Cross-entropy of all queries: with the class of their segment, or with "no object", which weighs less.

    Args:
      class_logits: float32 [N, Q, C + 1].
      classes: int32 [N, K], -1 for none.
      query: int32 [N, K], of each segment.
    """
    none = class_logits.shape[-1] - 1

    def wanted(classes, query):
        place = jnp.where(classes >= 0, query, class_logits.shape[1])
        return jnp.full(class_logits.shape[1], none).at[place].set(classes, mode="drop")

    target = jax.vmap(wanted)(classes, query)
    weight = jnp.where(target == none, no_object_weight, 1.0)
    chance = jnp.take_along_axis(jax.nn.log_softmax(class_logits), target[..., None], -1)[..., 0]
    return -(weight * chance).sum() / weight.sum()


def mask_losses(mask_logits: jax.Array, segments: Segments, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(binary cross-entropy, Dice loss), each the mean over all segments of the batch.

    Args:
      mask_logits: float32 [N, K, h, w], of each segment's query.
      places: float32 [N, K, P, 2], each segment's points.
    """

    def of_one(masks, places, index, labelled, classes):
        logits = jax.vmap(_at)(masks[:, None], places)[:, 0]
        truth, counts = jax.vmap(lambda k, p: _truth(index, labelled, p, 1, k))(jnp.arange(len(classes)), places)
        truth = truth[:, 0]
        entropy = counts * (jax.nn.softplus(logits) - truth * logits)
        mask = entropy.sum(-1) / jnp.maximum(counts.sum(-1), 1.0)
        chance, truth = jax.nn.sigmoid(logits) * counts, truth * counts
        dice = 1 - (2 * (chance * truth).sum(-1) + 1) / (chance.sum(-1) + truth.sum(-1) + 1)
        there = classes >= 0
        return jnp.where(there, mask, 0.0).sum(), jnp.where(there, dice, 0.0).sum()

    mask, dice = jax.vmap(of_one)(mask_logits, places, *segments)
    number = jnp.maximum((segments.classes >= 0).sum(), 1)
    return mask.sum() / number, dice.sum() / number


def important_points(mask_logits: jax.Array, key: jax.Array, points: int) -> jax.Array:
    """Points for each mask, most of them where it is least certain (Kirillov et al. 2020, PointRend, section 3.1).

    mask_logits float32 [N, K, h, w] to float32 [N, K, points, 2], (x, y) in 0..1.
    """
    drawn_key, other_key = jax.random.split(key)
    important = int(IMPORTANT * points)
    drawn = jax.random.uniform(drawn_key, (*mask_logits.shape[:2], OVERSAMPLING * points, 2))
    logits = jax.vmap(jax.vmap(lambda mask, places: _at(mask[None], places)[0]))(mask_logits, drawn)
    _, kept = jax.lax.top_k(-jnp.abs(jax.lax.stop_gradient(logits)), important)
    others = jax.random.uniform(other_key, (*mask_logits.shape[:2], points - important, 2))
    return jnp.concatenate([jnp.take_along_axis(drawn, kept[..., None], -2), others], -2)


def _at(maps, places):
    """Maps [M, h, w] at points [P, 2], bilinearly, with zeros outside: [M, P]."""
    indices, weights = _corners(places, maps.shape[1:])
    found = maps.reshape(maps.shape[0], -1)[:, indices]
    return (found * weights).sum(-1)


def _truth(index, labelled, places, count, first=0):
    """(float32 [count, P]: how much of a point lies in each segment from `first` on; [P]: 1 where it is labelled)."""
    indices, weights = _corners(places, index.shape)
    of_corner = index.ravel()[indices]
    found = ((of_corner == first + jnp.arange(count)[:, None, None]) * weights).sum(-1)
    nearest = jnp.take_along_axis(indices, weights.argmax(-1)[:, None], -1)[:, 0]
    return found, labelled.ravel()[nearest].astype(jnp.float32)


def _corners(places, size):
    """Of points [P, 2] the four pixels around each, int32 [P, 4] into a flat image, and their weights."""
    height, width = size
    x, y = places[:, 0] * width - 0.5, places[:, 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    indices, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            weight = (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row))
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weights.append(jnp.where(inside, weight, 0.0))
            row, column = jnp.clip(row, 0, height - 1).astype(int), jnp.clip(column, 0, width - 1).astype(int)
            indices.append(row * width + column)
    return jnp.stack(indices, -1), jnp.stack(weights, -1)
