"""scSE against segmentation_models.pytorch's module."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.core.batch import ATTENTION
from segjax.models.layers.scse import SCSE
from tests.models.variables import random_image, random_variables

RULES = (
    Rule(r"cSE\.1", "channel/fc1"),
    Rule(r"cSE\.3", "channel/fc2"),
    Rule(r"sSE\.0", "spatial"),
)


@pytest.mark.parametrize("reduction", [2, 16])
def test_output_weights_and_gradient_equal_smp(reduction):
    reference = pytest.importorskip("tests.references.pytorch")
    smp = reference.library("segmentation_models_pytorch")
    module = reference.randomised(smp.base.modules.SCSEModule(32, reduction))
    model = SCSE(reduction)
    variables = reference.converted(module, model, RULES, (1, 4, 4, 32))
    image, weight = random_image((2, 7, 5, 32)), random_image((2, 7, 5, 32), seed=2)
    theirs = reference.nchw(image).requires_grad_()

    def product(x):
        y, kept = model.apply(variables, x, mutable=[ATTENTION])
        return (y * weight).sum(), (y, kept)

    gradient, (ours, kept) = reference.fast_jit(jax.grad(product, has_aux=True))(image)
    expected = module(theirs)
    (expected * reference.nchw(weight)).sum().backward()
    reference.assert_close(ours, reference.nhwc(expected))
    reference.assert_close(gradient, reference.nhwc(theirs.grad))
    reference.assert_close(kept[ATTENTION]["weights"], reference.nhwc(module.sSE(theirs))[..., 0])


def test_few_channels_and_bfloat16():
    x = random_image((2, 7, 5, 3))
    variables = random_variables(SCSE(16), x.shape)
    full, half = (SCSE(16, dtype).apply(variables, x) for dtype in (jnp.float32, jnp.bfloat16))
    assert full.dtype == jnp.float32 and half.dtype == jnp.bfloat16
    # 8 bits of mantissa, three roundings.
    np.testing.assert_allclose(half.astype(jnp.float32), full, atol=0.02 * np.abs(full).max())
