"""One training step: loss, gradient, update. Pure, jitted once, with no round trip to the host."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from segjax.core import sharding
from segjax.core.batch import MEMORY
from segjax.models.layers.conv import PRODUCT
from segjax.models.output import MaskOutput, Output
from segjax.training.optim import Schedule
from segjax.training.state import TrainState

LossFn = Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]]
Metrics = dict[str, jax.Array]

AUGMENT = 2**16
"""Folded into a step's key for what changes the batch; smaller numbers are those of POINTS and of microbatches."""

POINTS = 1
"""Folded into a step's key for what the loss draws; the key itself is that of dropout."""


def make_train_step(
    model: nn.Module,
    loss_fn: LossFn,
    normaliser: Callable[..., jax.Array],
    direction: optax.GradientTransformation,
    schedule: Schedule,
    factors: Any,
    mesh: Mesh,
    *,
    seed: int,
    accumulate: int = 1,
    auxiliary_weight: float = 0.0,
    mask_loss: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]] | None = None,
    remat: str = "",
    ema_decay: float = 0.0,
    stop_on_nonfinite: bool = True,
    augment: Callable[[Mapping[str, Any], jax.Array], Mapping[str, Any]] | None = None,
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
    """Build `train_step(state, batch) -> (state, metrics)`, to be jitted by `jit_train_step`.

    With `accumulate` = k the batch is cut into k microbatches of which one at a time is in memory. Each one's
    loss counts by its share of `normaliser(label=...)` (the weight of its valid pixels), so that losses that are
    means over pixels have the gradient of the whole batch exactly; BatchNorm's statistics, Dice, Lovasz and
    OHEM are those of a microbatch.

    The losses of auxiliary heads (`segjax.models.output.Output`) are added, times `auxiliary_weight` each. Logits
    that are smaller than the label, as those of a network without padding, are compared with its centre.
    The loss of a model that classifies masks (`segjax.models.output.MaskOutput`) is `mask_loss(output, batch, key)`.
    Where the batch has a `weight`, `loss_fn(logits, label=...)` and the normaliser get its pixels as `weight` too.

    The frames of clips, image [N, T, H, W, 3], count as N T images, or as N where the model gives the last frame's
    logits alone. Where the batch has a `reset`, the model goes on from the states in `state.model_state`, through which
    no gradient flows: backpropagation through time is cut off at the frames of a step.

    `remat` says what the gradient computes again instead of keeping it, see `make_forward`.

    `augment(batch, key) -> batch` (`segjax.data.augment.device_stage`) makes the batch that the network sees of the one
    that came, at the start of the step and for the whole batch; None takes it as it is.

    A step whose loss or gradient is not finite changes nothing but the counters. With `stop_on_nonfinite` every
    later step changes nothing either, so that the state stays the last good one until the host looks.

    The average of the parameters is e <- d e + (1 - d) p with d = min(ema_decay, (1 + t) / (10 + t)), the
    warm-up of Abadi et al.'s ExponentialMovingAverage.

    Metrics are float32 scalars: loss, one a loss term, learning_rate, gradient_norm (before clipping), and
    nonfinite (0 or 1).
    """

    forward = make_forward(model, loss_fn, auxiliary_weight=auxiliary_weight, mask_loss=mask_loss, remat=remat)
    gradient = jax.value_and_grad(forward, has_aux=True)

    def accumulated(state, batch, key):
        """Sums over microbatches, each weighted by its share of the labelled pixels."""

        def cut(array):  # microbatch i has rows i, i + accumulate, ...: each device's from its own rows, none is sent
            return array.reshape(array.shape[0] // accumulate, accumulate, *array.shape[1:]).swapaxes(0, 1)

        parts = sharding.split_batch(mesh, jax.tree.map(cut, batch), before=1)
        one = jax.tree.map(lambda array: array[0], parts)
        output = jax.eval_shape(partial(apply, model), state.params, state.model_state, one, key)[0]
        logits = one["label"][..., None] if isinstance(output, MaskOutput) else output.logits
        weights = jax.vmap(lambda part: normaliser(**targets(part, logits)))(parts)
        weights = weights / jnp.maximum(weights.sum(), jnp.finfo(jnp.float32).tiny)

        def body(carry, part):
            total, model_state = carry
            index, weight, microbatch = part
            (loss, (terms, model_state)), grads = gradient(
                state.params, model_state, microbatch, jax.random.fold_in(key, index)
            )
            total = jax.tree.map(lambda t, x: t + weight * x, total, (loss, terms, grads))
            return (total, model_state), None

        (loss, (terms, _)), grads = jax.eval_shape(gradient, state.params, state.model_state, one, key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, terms, grads))
        (total, model_state), _ = jax.lax.scan(
            body, (zeros, state.model_state), (jnp.arange(accumulate), weights, parts)
        )
        loss, terms, grads = total
        return (loss, (terms, model_state)), grads

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if augment:
            batch = augment(batch, jax.random.fold_in(key, AUGMENT))
            batch = sharding.split_batch(mesh, batch) if sharding.row_parts(mesh) > 1 else batch
        batch = {name: batch[name] for name in ("image", "label", "weight", "instance", "reset") if name in batch}
        if accumulate == 1:
            (loss, (terms, model_state)), grads = gradient(state.params, state.model_state, batch, key)
        else:
            (loss, (terms, model_state)), grads = accumulated(state, batch, key)

        squares = jnp.stack([sum_of_squares(grads[part]) for part in sorted(grads)])
        bad_parts = ~jnp.isfinite(jnp.concatenate([loss[None], squares]))
        bad = bad_parts.any()
        frozen = bad | (state.nonfinite_step >= 0) if stop_on_nonfinite else bad

        rate = schedule(state.step)
        updates, opt_state = direction.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u, f: p - rate * f * u, state.params, updates, factors)
        ema = state.ema
        if ema_decay:
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)

        old = (state.params, begun_anew(state.model_state, batch), state.opt_state, state.ema)
        new = (params, model_state, opt_state, ema)
        params, model_state, opt_state, ema = jax.tree.map(lambda o, n: jnp.where(frozen, o, n), old, new)
        first = bad & (state.nonfinite_step < 0) & stop_on_nonfinite
        state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
            nonfinite_count=state.nonfinite_count + bad,
            nonfinite_step=jnp.where(first, state.step, state.nonfinite_step),
            nonfinite_parts=jnp.where(first, bad_parts, state.nonfinite_parts),
        )
        metrics = {
            "loss": loss,
            **terms,
            "learning_rate": rate,
            "gradient_norm": jnp.sqrt(squares.sum()),
            "nonfinite": bad.astype(jnp.float32),
        }
        return state, metrics

    return train_step


def begun_anew(model_state: Any, batch: Mapping[str, jax.Array]) -> Any:
    """The collections of the model, with zeros for the states of the clips that begin in this batch."""
    if MEMORY not in model_state or "reset" not in batch:
        return model_state

    def zeroed(leaf):
        return jnp.where(jnp.expand_dims(batch["reset"], range(1, leaf.ndim)), jnp.zeros_like(leaf), leaf)

    return {**model_state, MEMORY: jax.tree.map(zeroed, model_state[MEMORY])}


def _kept(primitive: Any, *inputs: Any, **params: Any) -> bool:
    """Whether `remat="elementwise"` keeps a result: that of a convolution, and of a product with parameters.

    Products without axes of a batch are with parameters, but for those that resize, which ask for a precision.
    """
    policies = jax.checkpoint_policies
    if policies.save_only_these_names(PRODUCT)(primitive, *inputs, **params):
        return True
    resizes = params.get("precision") is not None
    return not resizes and policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **params)


def make_forward(
    model: nn.Module,
    loss_fn: LossFn,
    *,
    auxiliary_weight: float = 0.0,
    mask_loss: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]] | None = None,
    remat: str = "",
) -> Callable[..., tuple[jax.Array, tuple[Metrics, Any]]]:
    """`forward(params, model_state, batch, key) -> (loss, (terms, model_state))`: what a step differentiates.

    The arguments are those of `make_train_step`. With `remat` = "elementwise" the gradient keeps the results of
    convolutions and of matrix products with parameters, and computes again what lies between them: normalisation,
    activation functions, resizing, attention's weights (Chen et al. 2016, "Training Deep Nets with Sublinear Memory
    Cost"). The numbers are the same, as far as XLA fuses them alike.
    """
    run = partial(apply, model)
    if remat == "elementwise":
        run = jax.checkpoint(run, policy=_kept)

    def loss_of(output, batch, key):
        if isinstance(output, MaskOutput):
            return mask_loss(output, batch, jax.random.fold_in(key, POINTS))
        loss, terms = loss_fn(as_images(output.logits), **targets(batch, output.logits))
        for index, logits in enumerate(output.auxiliary):
            auxiliary, _ = loss_fn(as_images(logits), **targets(batch, logits))
            loss = loss + auxiliary_weight * auxiliary
            terms = {**terms, f"auxiliary_{index}": auxiliary}
        return loss, terms

    def forward(params, model_state, batch, key):
        output, model_state = run(params, model_state, batch, key)
        loss, terms = loss_of(output, batch, key)
        return loss, (terms, model_state)

    return forward


def apply(
    model: nn.Module, params: Any, model_state: Any, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[Output | MaskOutput, Any]:
    """(output, model_state) of a model in training; the key is that of its dropout."""
    output, model_state = model.apply(
        {"params": params, **model_state},
        batch["image"],
        train=True,
        rngs={"dropout": key},
        mutable=list(model_state),
        **{name: batch[name] for name in ("reset",) if name in batch},
    )
    return output if isinstance(output, Output | MaskOutput) else Output(output, ()), model_state


def as_images(logits: jax.Array) -> jax.Array:
    """[N, H, W, C] as it is, and the frames of clips, [N, T, H, W, C], as images, [N T, H, W, C]."""
    return logits.reshape(-1, *logits.shape[-3:])


def targets(batch: Mapping[str, jax.Array], logits: jax.Array) -> dict[str, jax.Array]:
    """The `label` of a batch, and its `weight` if it has one, where the logits are: those of `as_images(logits)`."""
    found = {name: batch[name] for name in ("label", "weight") if name in batch}
    if logits.ndim == 5:
        found = {name: array[:, -logits.shape[1] :].reshape(-1, *array.shape[2:]) for name, array in found.items()}
    return {name: centre_crop(array, logits.shape[-3:-1]) for name, array in found.items()}


def centre_crop(label: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The middle of a label [N, H, W] at this (height, width); a whole pixel towards the top left where it is odd."""
    top, left = (label.shape[1] - size[0]) // 2, (label.shape[2] - size[1]) // 2
    return label[:, top : top + size[0], left : left + size[1]]


def sum_of_squares(tree: Any) -> jax.Array:
    """float32 scalar; not finite where any entry is not."""
    return sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))


def jit_train_step(train_step: Callable, state_shardings: Any, mesh: Mesh) -> Callable:
    """Jit over a mesh: the state lies as `state_shardings` says and is overwritten, a batch as it was put."""
    return jax.jit(
        sharding.for_mesh(train_step, mesh),
        in_shardings=(state_shardings, None),
        out_shardings=(state_shardings, sharding.replicated(mesh)),
        donate_argnums=0,
    )
