"""Losses on logits, and their weighted sum by configuration.

Every loss takes `logits` [N, H, W, C] (any float dtype, computed in float32) and `label` [N, H, W] (uint8 or
another integer type) whose values are 0..C-1 or IGNORE_LABEL, and returns a float32 scalar.

What holds for all of them:
- They reduce over the labelled pixels of the whole batch with plain sums over all axes. Under `jax.jit` with
  a batch that is sharded over devices these are sums over the global batch, not means of per-device means.
- An ignored pixel gives no loss and a gradient of exactly zero, whatever its logits are.
- A batch without a labelled pixel gives exactly 0 with a gradient of exactly zero.
- Some take a `weight` [N, H, W], float and not negative, which is added to the weight of each labelled pixel's
  class: the border weight of U-Net (Ronneberger et al. 2015, eq. 2, where the weight of the class is w_c). They are
  the means over weighted pixels, so the sum is divided by the sum of these weights too. (The paper's eq. 1 is a sum;
  that differs by a factor, the same for all pixels of a batch.)
- A label that is neither a class nor IGNORE_LABEL makes the loss NaN, since nothing can be raised under jit:
  the check for non-finite losses then stops the training.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from segjax.core.batch import IGNORE_LABEL
from segjax.core.config import PIXEL_WEIGHTED_LOSSES, nearest

LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


class _Pixels(NamedTuple):
    """What all losses start from."""

    logits: jax.Array  # float32 [N, H, W, C], 0 at ignored pixels
    one_hot: jax.Array  # bool [N, H, W, C], all False at ignored pixels
    valid: jax.Array  # bool [N, H, W]


def _pixels(logits: jax.Array, label: jax.Array) -> _Pixels:
    if logits.ndim != 4 or logits.shape[:-1] != label.shape:
        raise ValueError(
            "logits must be [N, H, W, C] and label [N, H, W] of the same size; received logits"
            f" {list(logits.shape)} and label {list(label.shape)}"
        )
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"label must hold integers; received {label.dtype}")
    label = label.astype(jnp.int32)
    classes = logits.shape[-1]
    valid = label != IGNORE_LABEL
    known = (label >= 0) & (label < classes)
    # Replacing the logits of ignored pixels, not only their loss, also keeps inf and NaN out of the gradient.
    # Where the label is no class, NaN in every class that is marked as labelled reaches every loss.
    filler = jnp.where(valid, jnp.nan, 0.0)
    logits = jnp.where(known[..., None], logits.astype(jnp.float32), filler[..., None])
    one_hot = (label[..., None] == jnp.arange(classes)) | (valid & ~known)[..., None]
    return _Pixels(logits, one_hot, valid)


def _log_probability(pixels: _Pixels) -> tuple[jax.Array, jax.Array]:
    """(log softmax [N, H, W, C], that of the labelled class [N, H, W], 0 at ignored pixels).

    A sum over a mask instead of `take_along_axis`, whose gradient is a scatter: forward and backward 5.1
    against 5.8 ms at [8, 128, 128, 11] on 2 cores.
    """
    log_probability = jax.nn.log_softmax(pixels.logits)
    return log_probability, jnp.where(pixels.one_hot, log_probability, 0.0).sum(-1)


def _pixel_weights(
    pixels: _Pixels, class_weights: Sequence[float] | jax.Array | None, weight: jax.Array | None
) -> jax.Array:
    """float32 [N, H, W]: the weight of each pixel's class, plus its own, and 0 at ignored pixels."""
    if class_weights is None:
        of_class = pixels.valid.astype(jnp.float32)
    else:
        of_class = jnp.where(pixels.one_hot, jnp.asarray(class_weights, jnp.float32), 0.0).sum(-1)
    if weight is None:
        return of_class
    if weight.shape != pixels.valid.shape:
        raise ValueError(
            "weight must be [N, H, W] of the same size as the label; received weight"
            f" {list(weight.shape)} and label {list(pixels.valid.shape)}"
        )
    return of_class + jnp.where(pixels.valid, weight.astype(jnp.float32), 0.0)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, and 0 with zero gradient where the denominator is 0."""
    positive = denominator > 0
    return jnp.where(positive, numerator, 0.0) / jnp.where(positive, denominator, 1.0)


def normaliser(
    label: jax.Array, class_weights: Sequence[float] | jax.Array | None = None, weight: jax.Array | None = None
) -> jax.Array:
    """The sum of pixel weights by which `cross_entropy` and `focal` are divided: a float32 scalar.

    It serves exact gradient accumulation. For losses that are means over weighted labelled pixels, with L_i
    the loss of microbatch i and w_i its normaliser, sum_i w_i L_i / sum_i w_i is the loss of the whole batch
    exactly, and likewise for gradients. For `dice`, `lovasz_softmax` and `ohem_cross_entropy` it is an
    approximation: they are no sums over pixels, and what is averaged is their value in each microbatch.

    Args:
      label: integers of any shape, classes or IGNORE_LABEL.
      class_weights: [C], or None for a weight of 1.
      weight: like label, what is added to the weights of the pixels' classes; None for 0.
    """
    label = jnp.asarray(label).astype(jnp.int32)
    valid = label != IGNORE_LABEL
    if class_weights is None:
        total = valid.sum(dtype=jnp.float32)
    else:
        weights = jnp.asarray(class_weights, jnp.float32)
        counts = (label[..., None] == jnp.arange(weights.shape[0])).sum(range(label.ndim), dtype=jnp.float32)
        total = (counts * weights).sum()
    return total if weight is None else total + jnp.where(valid, weight, 0.0).sum()


def cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    *,
    class_weights: Sequence[float] | jax.Array | None = None,
    weight: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Softmax cross-entropy: sum_i w_i (-(1 - s) log p_i(y_i) - s / C sum_c log p_i(c)) / sum_i w_i.

    w_i is the weight of the class of pixel i, plus the pixel's own, and s the label smoothing (Szegedy et al. 2016,
    sec. 7, with the uniform distribution over the C classes). PyTorch differs for s > 0 together with class weights:
    there the term of class c in the smoothed part is weighted by the weight of c.

    Args:
      class_weights: [C], not negative; None for 1.
      weight: [N, H, W], not negative; None for 0.
      label_smoothing: in [0, 1).
    """
    pixels = _pixels(logits, label)
    log_probability, picked = _log_probability(pixels)
    loss = -picked
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * log_probability.mean(-1)
    weights = _pixel_weights(pixels, class_weights, weight)
    # The mask, since 0 * log(1 / C) is not the zero that an ignored pixel must give under smoothing.
    return _ratio(jnp.where(pixels.valid, weights * loss, 0.0).sum(), weights.sum())


def focal(
    logits: jax.Array,
    label: jax.Array,
    *,
    gamma: float = 2.0,
    alpha: Sequence[float] | jax.Array | None = None,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Focal loss (Lin et al. 2017, eq. 5) with softmax: sum_i a_i (1 - p_i)^gamma (-log p_i) / sum_i a_i.

    p_i is the probability of the labelled class of pixel i and a_i the alpha of that class, plus the pixel's own. The
    paper has two classes, a sigmoid each, and divides by the number of foreground anchors; this is a mean over the
    weighted labelled pixels, so that gamma = 0 is the cross-entropy with alpha as class weights.

    Args:
      gamma: focusing parameter, not negative.
      alpha: [C], weight of each class, not negative; None for 1.
      weight: [N, H, W], not negative; None for 0.
    """
    pixels = _pixels(logits, label)
    picked = _log_probability(pixels)[1]
    loss = -picked
    if gamma:
        # The floor keeps the derivative of the power finite at p = 1 for gamma < 1.
        loss = loss * jnp.maximum(-jnp.expm1(picked), 1e-12) ** gamma
    weights = _pixel_weights(pixels, alpha, weight)
    return _ratio((weights * loss).sum(), weights.sum())


def dice(logits: jax.Array, label: jax.Array, *, smoothing: float = 1.0) -> jax.Array:
    """Soft Dice loss: 1 - mean over classes of (2 sum_i p_i g_i + s) / (sum_i p_i + sum_i g_i + s).

    p_i is the softmax probability of the class at pixel i, g_i is 1 where it is the label, and the sums run
    over the labelled pixels of the batch; the form of Milletari et al. 2016, eq. 3, without squares in the
    denominator. Only classes that are present in the label count.

    Args:
      smoothing: s, in pixels; not negative. A perfect prediction gives 0 for any s.
    """
    pixels = _pixels(logits, label)
    probability = jnp.where(pixels.valid[..., None], jax.nn.softmax(pixels.logits), 0.0)
    axes = (0, 1, 2)
    overlap = jnp.where(pixels.one_hot, probability, 0.0).sum(axes)
    size = pixels.one_hot.sum(axes, dtype=jnp.float32)
    score = (2 * overlap + smoothing) / jnp.maximum(probability.sum(axes) + size + smoothing, 1e-12)
    present = size > 0
    return _ratio(jnp.where(present, 1 - score, 0.0).sum(), present.sum(dtype=jnp.float32))


def lovasz_softmax(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Lovasz-softmax loss (Berman et al. 2018, eq. 11 and alg. 1): 0 to 1.

    The mean over the classes that are present in the label ("present" in the authors' code) of the Lovasz
    extension of the Jaccard loss at the pixel errors |g_i - p_i|, over the labelled pixels of the whole batch
    at once. It sorts all pixels once a class, by far the costliest loss here.
    """
    pixels = _pixels(logits, label)
    classes = logits.shape[-1]
    probability = jax.nn.softmax(pixels.logits).reshape(-1, classes).T
    foreground = pixels.one_hot.reshape(-1, classes).T
    valid = pixels.valid.reshape(1, -1)
    errors = jnp.where(valid, jnp.where(foreground, 1 - probability, probability), 0.0)
    # The extension is linear for a given order: its gradient is a constant weight on each error. Errors of 0
    # come last and add nothing, so ignored pixels leave the weights of the others as they are.
    slopes = jax.lax.stop_gradient(_lovasz_slopes(errors, foreground))
    present = foreground.any(-1)
    extension = jnp.where(present, (errors * slopes).sum(-1), 0.0)
    return _ratio(extension.sum(), present.sum(dtype=jnp.float32))


def _lovasz_slopes(errors: jax.Array, foreground: jax.Array) -> jax.Array:
    """Gradient of the Lovasz extension of the Jaccard loss with respect to the errors, [C, P].

    Alg. 1 takes differences of the cumulated Jaccard loss, which cancel in float32 (differences near 1 / P).
    The difference has a closed form. With F and B the foreground and background pixels among those up to and
    with this one, in descending order of error, G the foreground pixels in all, and U = G + B the union:
    1 / U for a foreground pixel, (G - F) / (U (U - 1)) for a background pixel.
    """
    count = errors.shape[-1]
    index = jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32), errors.shape)
    order = jax.lax.sort((-errors, index), num_keys=1)[1]
    ranked = jnp.take_along_axis(foreground, order, axis=-1)
    seen = jax.lax.associative_scan(jnp.add, ranked.astype(jnp.int32), axis=-1)
    total = seen[:, -1:]
    union = (total + 1 + index - seen).astype(jnp.float32)
    missing = (total - seen).astype(jnp.float32)
    slopes = jnp.where(ranked, 1 / jnp.maximum(union, 1), missing / union / jnp.maximum(union - 1, 1))
    place = jax.vmap(lambda row, values: jnp.zeros_like(values).at[row].set(values, unique_indices=True))
    return place(order, slopes)


def ohem_cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    *,
    class_weights: Sequence[float] | jax.Array | None = None,
    weight: jax.Array | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> jax.Array:
    """Cross-entropy of the hard pixels only (online hard example mining; Shrivastava et al. 2016).

    A pixel is hard if the probability of its labelled class is below `threshold`, or if it is among the
    `min_kept` labelled pixels of the global batch with the largest loss (with all that tie with the last of
    them; all pixels where there are fewer). The result is the weighted mean over the hard pixels.

    The `min_kept`-th largest loss is found by bisection on the bits of the float, 31 counts over the pixels:
    exact, in static shapes, with one scalar summed over the devices for each bit, where `top_k` and a
    quantile sort the gathered batch (for min_kept = 100,000 on 2 cores 1.1 against 24 ms with 131,072 pixels,
    13 against 310 ms with 1.4 million).

    Args:
      class_weights: [C], not negative; None for 1. They do not take part in the choice.
      weight: [N, H, W], not negative; None for 0. It does not take part either.
      threshold: probability, in (0, 1].
      min_kept: pixels of the global batch, not negative.
    """
    pixels = _pixels(logits, label)
    loss = -_log_probability(pixels)[1]
    ranking = jax.lax.stop_gradient(jnp.where(pixels.valid, jnp.maximum(loss, 0.0), -1.0))
    # Negated, so that a NaN is kept and the loss shows it.
    hard = ~(ranking <= -math.log(threshold))
    if min_kept > 0:
        hard |= ~(ranking < _kth_largest(ranking, min_kept))
    hard &= pixels.valid
    weights = jnp.where(hard, _pixel_weights(pixels, class_weights, weight), 0.0)
    return _ratio(jnp.where(hard, weights * loss, 0.0).sum(), weights.sum())


def _kth_largest(values: jax.Array, k: int) -> jax.Array:
    """The k-th largest of those of `values` that are >= 0; 0 where there are fewer than k."""
    # Non-negative IEEE floats are ordered as their bits are, and a negative one is below as an integer.
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def narrow(step, found):
        candidate = found | (1 << (30 - step))
        return jnp.where((bits >= candidate).sum() >= k, candidate, found)

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, narrow, jnp.int32(0)), jnp.float32)


LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "lovasz_softmax": lovasz_softmax,
    "ohem_cross_entropy": ohem_cross_entropy,
}
"""All losses by the name that a config uses."""


def build_loss(
    terms: Mapping[str, float],
    *,
    num_classes: int,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    dice_smoothing: float = 1.0,
    focal_gamma: float = 2.0,
    ohem_threshold: float = 0.7,
    ohem_min_kept: int = 100_000,
) -> LossFn:
    """A weighted sum of named losses: `loss_fn(logits, label) -> (loss, {term: its value before weighting})`.

    `loss_fn(logits, label, weight)` gives the weights of pixels to each; a term that takes none is an error then.

    Args:
      terms: weight of each loss by its name in `LOSSES`; one with weight 0 is off and not computed.
      num_classes: C of the logits that will come.
      class_weights: [C], of cross_entropy, ohem_cross_entropy and focal (its alpha); None or empty for 1.
      label_smoothing: of cross_entropy; in [0, 1).
      dice_smoothing: of dice, in pixels.
      focal_gamma: of focal.
      ohem_threshold, ohem_min_kept: of ohem_cross_entropy.
    Raises:
      ValueError: an unknown name, a weight or parameter out of its range, no term with a positive weight, or
        class weights that are not one a class.
    """
    for name, weight in terms.items():
        if name not in LOSSES:
            raise ValueError(f"loss {name!r} is unknown; {nearest(name, LOSSES)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"the weight of a loss must be finite and >= 0; {name!r} has {weight}")
    active = {name: float(weight) for name, weight in terms.items() if weight > 0}
    if not active:
        raise ValueError(f"at least one loss must have a positive weight; received {dict(terms)}")
    class_weights = _check_class_weights(class_weights, num_classes)
    _check_range("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)")
    _check_range("dice_smoothing", dice_smoothing, 0 <= dice_smoothing < math.inf, "finite and >= 0")
    _check_range("focal_gamma", focal_gamma, 0 <= focal_gamma < math.inf, "finite and >= 0")
    _check_range("ohem_threshold", ohem_threshold, 0 < ohem_threshold <= 1, "in (0, 1]")
    _check_range("ohem_min_kept", ohem_min_kept, ohem_min_kept >= 0, ">= 0")
    parameters = {
        "cross_entropy": {"class_weights": class_weights, "label_smoothing": label_smoothing},
        "dice": {"smoothing": dice_smoothing},
        "focal": {"gamma": focal_gamma, "alpha": class_weights},
        "lovasz_softmax": {},
        "ohem_cross_entropy": {
            "class_weights": class_weights,
            "threshold": ohem_threshold,
            "min_kept": ohem_min_kept,
        },
    }
    functions = {name: functools.partial(LOSSES[name], **parameters[name]) for name in active}

    def loss_fn(
        logits: jax.Array, label: jax.Array, weight: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if logits.shape[-1] != num_classes:
            raise ValueError(f"the loss was built for {num_classes} classes; received logits {list(logits.shape)}")
        if weight is not None and (unable := active.keys() - set(PIXEL_WEIGHTED_LOSSES)):
            raise ValueError(
                f"with weights of pixels each loss must be one of {', '.join(PIXEL_WEIGHTED_LOSSES)};"
                f" received {', '.join(sorted(unable))}"
            )
        weights = {} if weight is None else {"weight": weight}
        values = {name: function(logits, label, **weights) for name, function in functions.items()}
        return sum(active[name] * value for name, value in values.items()), values

    return loss_fn


def _check_class_weights(weights: Sequence[float] | None, num_classes: int) -> tuple[float, ...] | None:
    if weights is None or len(weights) == 0:
        return None
    array = np.asarray(weights, np.float64)
    if array.shape != (num_classes,):
        raise ValueError(f"class_weights must be one a class, {num_classes} in all; received shape {list(array.shape)}")
    if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
        raise ValueError(f"class_weights must be finite, >= 0 and not all 0; received {array.tolist()}")
    return tuple(array.tolist())


def _check_range(name: str, value: float, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}; received {value}")
