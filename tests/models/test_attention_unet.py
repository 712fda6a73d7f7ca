"""Attention U-Net against a reference in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule
from segjax.core.batch import ATTENTION
from segjax.models.attention_unet import VARIANTS, AttentionGate, AttentionUNet
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit, random_image, random_variables

RULES = (
    *(
        Rule(rf"(down|up)\.(\d)\.{3 * conv + layer}", rf"unet/\1\2_conv{conv}/{ours}")
        for conv in range(2)
        for layer, ours in enumerate(("conv", "norm"))
    ),
    Rule(r"halve\.(\d)", r"unet/up\1"),
    Rule(r"final", "unet/head"),
    Rule(r"gating\.0", "gating/conv"),
    Rule(r"gating\.1", "gating/norm"),
    Rule(r"gate\.(\d)\.(theta|phi|psi)", r"gate\1/\2"),
    Rule(r"gate\.(\d)\.W\.0", r"gate\1/out/conv"),
    Rule(r"gate\.(\d)\.W\.1", r"gate\1/out/norm"),
)
"""Names of tests/references/attention_unet.py."""


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def pair(request, reference):
    """(module, model, variables, image)"""
    from tests.references.attention_unet import AttentionUNet as Reference

    module = reference.randomised(Reference(5, width=4, depth=3, attention=request.param))
    model = AttentionUNet(5, width=4, depth=3, attention=request.param)
    return module, model, reference.converted(module, model, RULES), random_image((2, 24, 40, 3))


def test_logits_and_coefficients_equal_the_reference(reference, pair):
    module, model, variables, image = pair
    run = fast_jit(lambda v, x: model.apply(v, x, mutable=[ATTENTION]))
    ours, kept = run(variables, image)
    reference.assert_close(ours, reference.nhwc(module.eval()(reference.nchw(image))))
    assert set(kept[ATTENTION]) == {"gate1", "gate2"}  # the skip connection at full resolution has none
    for level in (1, 2):
        found = kept[ATTENTION][f"gate{level}"]["coefficients"]
        assert found.shape == (2, 24 // 2**level, 40 // 2**level) and found.dtype == jnp.float32
        reference.assert_close(found, reference.nhwc(module.gate[str(level)].coefficients)[..., 0])
        assert (np.ptp(found, (1, 2)) > 1e-2).all() == model.attention


def test_training_gradients_and_statistics_equal_the_reference(reference, pair):
    from tests.references.gradients import assert_same_gradients, mostly_active

    module, model, _, image = pair
    module = mostly_active(module).train()
    variables = reference.converted(module, model, RULES)
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def loss(params):
        variables_now = {**variables, "params": params}
        logits, changed = model.apply(variables_now, image, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)), (logits, changed)

    gradient, (logits, changed) = fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = module(reference.nchw(image))
    reference.assert_close(logits, reference.nhwc(theirs))
    reference.torch.nn.functional.cross_entropy(theirs, reference.torch.from_numpy(label)).backward()
    assert_same_gradients({"params": gradient}, module, RULES)
    # A gate without attention has all its parameters trained too.
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["gate2"]))
    expected = dict(named_leaves(reference.converted(module, model, RULES)["batch_stats"]))
    for path, ours in named_leaves(changed["batch_stats"]):
        np.testing.assert_allclose(ours, expected[path], rtol=1e-4, atol=1e-5, err_msg=path)


def test_parameters_are_the_same_without_attention():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    on, off = (
        jax.eval_shape(AttentionUNet(5, attention=attention, **VARIANTS["narrow"]).init, jax.random.key(0), image)
        for attention in (True, False)
    )
    assert on == off


def test_other_sizes_are_padded_with_zeros_and_cropped():
    model = AttentionUNet(3, width=2, depth=2)
    image = random_image((1, 9, 14, 3))
    variables = random_variables(model, image.shape)
    whole = jnp.zeros((1, 12, 16, 3)).at[:, :9, :14].set(image)
    apply = fast_jit(model.apply)
    assert jnp.array_equal(apply(variables, image), apply(variables, whole)[:, :9, :14])


@pytest.mark.parametrize("size", [(1, 1), (3, 17)])
@pytest.mark.parametrize("up", ["bilinear", "transposed"])
def test_tiny_images(size, up):
    model = AttentionUNet(3, width=2, depth=3, up=up)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 3)


def test_a_new_gate_lets_everything_pass():
    gate = AttentionGate()
    x, signal = random_image((2, 8, 6, 4)), random_image((2, 4, 3, 8), seed=2)
    variables = fast_jit(lambda x, signal: gate.init(jax.random.key(0), x, signal, train=True))(x, signal)
    run = fast_jit(lambda v: gate.apply(v, x, signal, train=True, mutable=[ATTENTION, "batch_stats"]))
    out, kept = run(variables)
    assert np.array_equal(kept[ATTENTION]["coefficients"], np.full((2, 8, 6), 0.5))
    # The normalisation after it undoes the half, but for its epsilon beside a smaller variance.
    kernel = variables["params"]["out"]["conv"]["kernel"][0, 0]
    y = jnp.einsum("nhwi,io->nhwo", x, kernel, precision="highest")
    expected = (y - y.mean((0, 1, 2))) / y.std((0, 1, 2))
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_bfloat16_is_close_to_float32():
    image = random_image((2, 32, 48, 3))
    models = [AttentionUNet(5, dtype=dtype, width=4, depth=3) for dtype in (jnp.float32, jnp.bfloat16)]
    variables = random_variables(models[0], image.shape)
    run = [fast_jit(lambda v, x, m=m: m.apply(v, x, mutable=[ATTENTION]))(variables, image) for m in models]
    (full, kept), (half, kept_half) = run
    assert half.dtype == jnp.float32
    # 8 bits of mantissa, a dozen layers.
    assert np.abs(half - full).max() < 0.1 * np.abs(full).max() and not np.array_equal(half, full)
    for ours, theirs in zip(jax.tree.leaves(kept_half), jax.tree.leaves(kept), strict=True):
        assert ours.dtype == jnp.float32 and np.abs(ours - theirs).max() < 0.1


def test_a_recurrent_network_finds_its_places():
    model, seen = AttentionUNet(3, width=2, depth=2), []

    def remember(stride, features):
        seen.append(stride)
        return features

    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    jax.eval_shape(lambda x: model.init(jax.random.key(0), x, remember=remember), image)
    assert seen == [1, 2, 4]


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(depth=1), "depth >= 2, .*received depth=1"),
        (dict(width=0), "width >= 1.*received .*width=0"),
        (dict(up="nearest"), r"up must be in \('transposed', 'bilinear'\); received 'nearest'"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        AttentionUNet(5, **fields)
