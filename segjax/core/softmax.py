"""Softmax that does not hide what is not a number, and the error of who finds it."""

import jax
import jax.numpy as jnp


def softmax(logits: jax.Array) -> jax.Array:
    """Over the last axis of [..., C]; NaN where a logit is NaN or infinity.

    XLA for CPUs (jaxlib 0.10.2) loses NaN where a ReLU, a product and a softmax follow each other in one program, so
    that a broken network would look like one that knows nothing.
    """
    wrong = (jnp.isnan(logits) | jnp.isposinf(logits)).any(-1, keepdims=True)
    return jnp.where(wrong, jnp.nan, jax.nn.softmax(logits))


def not_finite(whose: str) -> ValueError:
    """The error for a network that gives what is not a number; `whose` says where, "those of 3 images are not"."""
    return ValueError(
        f"the network's probabilities must be finite; {whose}. What to try: --config.model.dtype=float32, an earlier"
        " checkpoint, a look at the weights"
    )
