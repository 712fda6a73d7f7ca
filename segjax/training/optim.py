"""The optimizer and its learning-rate schedule, built from a config.

The update of a step is `-rate(step) * factor(parameter) * direction`, where the direction comes from a chain of
optax transformations and the rate is a function of the step alone, so that a skipped step does not shift it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax import contrib

Schedule = Callable[[jax.Array], jax.Array]


def build_schedule(
    name: str, learning_rate: float, steps: int, *, warmup_steps: int = 0, poly_power: float = 0.9
) -> Schedule:
    """step (int32 scalar, from 0) -> learning rate (float32 scalar).

    Args:
      name: "constant"; "poly", rate * (1 - t)^power as in Chen et al. 2018 (DeepLab v2, section 4.1); "cosine",
        rate * (1 + cos(pi t)) / 2 as in Loshchilov & Hutter 2017. t runs from 0 at the end of the warm-up to 1
        at the last step's end.
      warmup_steps: the rate rises linearly, from rate / warmup_steps at step 0.
    """

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        t = jnp.clip((step - warmup_steps) / max(steps - warmup_steps, 1), 0.0, 1.0)
        decay = {
            "constant": lambda: jnp.ones_like(t),
            "poly": lambda: (1 - t) ** poly_power,
            "cosine": lambda: (1 + jnp.cos(jnp.pi * t)) / 2,
        }[name]()
        warmup = jnp.minimum((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
        return (learning_rate * warmup * decay).astype(jnp.float32)

    return rate


NO_KERNELS = ("bias_table", "class_embed", "cls_token", "embedding", "pos_embed")
"""Names of parameters of several axes that are tables of vectors, each for a place, a query or a class."""


def is_kernel(path: str, parameter: Any) -> bool:
    """Weight decay and Muon are for kernels: biases, norm scales, other vectors and tables of them are left alone.

    As the authors of ViT, Swin and Mask2Former do with their positions, relative positions and queries.
    """
    return jnp.ndim(parameter) > 1 and path.rsplit("/", 1)[-1] not in NO_KERNELS


def build_direction(config: ConfigDict) -> optax.GradientTransformation:
    """Gradient -> direction, from `config.optimizer`: clip, then moments, then weight decay, without the rate.

    SGD has its weight decay in the gradient (L2, as Caffe and PyTorch), AdamW outside of the moments (Loshchilov
    & Hutter 2019) as Muon does, Adam in the gradient.
    """

    def mask(params):
        return jax.tree_util.tree_map_with_path(lambda path, p: is_kernel(path_name(path), p), params)

    decay = [optax.add_decayed_weights(config.weight_decay, mask)] if config.weight_decay else []
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    moments = {
        "sgd": lambda: optax.trace(config.momentum) if config.momentum else optax.identity(),
        "adam": lambda: optax.scale_by_adam(config.momentum, config.b2),
        "adamw": lambda: optax.scale_by_adam(config.momentum, config.b2),
        "muon": lambda: scale_by_muon(config.momentum, config.b2),
    }[config.name]()
    rest = [moments, *decay] if config.name in ("adamw", "muon") else [*decay, moments]
    return optax.chain(*clip, *rest)


def scale_by_muon(momentum: float, b2: float) -> optax.GradientTransformation:
    """Muon for kernels (Jordan et al. 2024, kellerjordan.github.io/posts/muon), Adam for everything else.

    A kernel [H, W, C, O] is the matrix [H*W*C, O] whose momentum is made orthogonal by five Newton-Schulz steps. It
    is scaled by 0.2 sqrt(max(H*W*C, O)), as in Liu et al. 2025 (arXiv:2502.16982, section 2.2), so that the update's
    root mean square, and with it a fitting learning rate, is about Adam's.

    Args:
      momentum: Nesterov momentum of the kernels, and Adam's b1.
      b2: Adam's.
    """

    def dimensions(params):
        def of(p):
            return contrib.MuonDimensionNumbers(tuple(range(p.ndim - 1)), p.ndim - 1)

        return jax.tree.map(lambda p: p if isinstance(p, optax.MaskedNode) else of(p), params, is_leaf=_is_masked)

    def rescale(updates, params=None):
        del params
        return jax.tree.map(lambda u: 0.2 * np.sqrt(max(u.size // u.shape[-1], u.shape[-1])) * u, updates)

    muon = optax.chain(
        contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimensions), optax.stateless(rescale)
    )
    adam = optax.scale_by_adam(momentum, b2)
    return optax.partition(
        {"muon": muon, "adam": adam},
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, p: "muon" if is_kernel(path_name(path), p) else "adam", params
        ),
    )


def _is_masked(leaf):
    return isinstance(leaf, optax.MaskedNode)


def rate_factors(params: Any, factors: Sequence[tuple[str, float]]) -> Any:
    """A tree like `params` of learning-rate factors (floats), 1.0 where no pattern fits.

    Args:
      factors: pairs of a regular expression and a factor; a parameter's path is like `decoder/conv/kernel`, and the
        first pattern that is found in it counts.
    Raises:
      ValueError: a pattern fits no parameter.
    """
    used = set()

    def of(path, _):
        for pattern, factor in factors:
            if re.search(pattern, path_name(path)):
                used.add(pattern)
                return float(factor)
        return 1.0

    tree = jax.tree_util.tree_map_with_path(of, params)
    if unused := [pattern for pattern, _ in factors if pattern not in used]:
        names = sorted({path_name(path).split("/")[0] for path, _ in jax.tree_util.tree_leaves_with_path(params)})
        raise ValueError(
            f"each pattern of config.optimizer.rate_factors must fit a parameter; {unused} fit none."
            f" Top-level parts: {', '.join(names)}"
        )
    return tree


def path_name(path: tuple) -> str:
    """A tree path as text: `encoder/conv1/kernel`."""
    return "/".join(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))) for entry in path)
