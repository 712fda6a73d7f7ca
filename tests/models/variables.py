"""Variables for tests, made without compiling an initialiser, and a `jit` for functions that run once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from segjax.training.state import named_leaves


def shapes_of(module, name=""):
    """{path: shape} of a model's variables, or of a backbone's as part of one: what files of weights have to fill."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image)
    return {path.replace("/", f"/{name}/", 1) if name else path: leaf for path, leaf in named_leaves(shapes)}


def random_variables(model, shape, seed=0, **kwargs):
    """Variables of `model` for an image of this shape: kernels of He's variance, no trivial bias or scale."""
    rng = np.random.default_rng(seed)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda x: model.init(key, x, **kwargs), jax.ShapeDtypeStruct(shape, jnp.float32))

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        spread = np.sqrt(2 / np.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.1
        return jnp.asarray(spread * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


FAST = {"xla_backend_optimization_level": 0}

fast_jit = functools.partial(jax.jit, compiler_options=FAST)
"""Jit with little optimisation: compiling is what takes the time of a test that runs a network once."""


def random_image(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)
