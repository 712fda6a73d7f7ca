"""Segmenter against a reference in PyTorch, and its encoder against timm's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import Rule, convert
from segjax.convert.timm import VIT
from segjax.core.batch import ATTENTION
from segjax.models import count_params
from segjax.models.backbones import vit
from segjax.models.backbones.vit import ViT
from segjax.models.layers.patches import Patches
from segjax.models.segmenter import Segmenter
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit, random_image, random_variables

ENCODER = dict(width=24, depth=2, heads=3, patch=8, image_size=64)
"""Fields of a small encoder, and below what timm calls them."""
TIMM = dict(embed_dim=24, depth=2, num_heads=3, patch_size=8)

# Names of tests/references/segmenter.py.
REFERENCE_RULES = (
    *(rule._replace(pattern=rf"encoder\.(?:{rule.pattern})") for rule in VIT),
    Rule(r"decoder\.enter", "decoder/proj"),
    Rule(r"decoder\.classes", "decoder/class_embed"),
    Rule(r"decoder\.blocks\.(\d)\.self_attn\.in_proj_weight", r"decoder/block\1/attn/qkv/kernel"),
    Rule(r"decoder\.blocks\.(\d)\.self_attn\.in_proj_bias", r"decoder/block\1/attn/qkv/bias"),
    Rule(r"decoder\.blocks\.(\d)\.self_attn\.out_proj", r"decoder/block\1/attn/proj"),
    Rule(r"decoder\.blocks\.(\d)\.linear([12])", r"decoder/block\1/mlp/fc\2"),
    Rule(r"decoder\.blocks\.(\d)\.(norm[12])", r"decoder/block\1/\2"),
    Rule(r"decoder\.norm", "decoder/norm"),
    Rule(r"decoder\.patch_projection", "decoder/proj_patch"),
    Rule(r"decoder\.class_projection", "decoder/proj_classes"),
    Rule(r"decoder\.mask_norm", "decoder/mask_norm"),
    Rule("decoder", "head"),  # linear
)


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def network(reference, decoder, image_size=64):
    from tests.references.segmenter import MaskTransformer, Segmenter

    head = MaskTransformer(5, 24, 3, 2) if decoder == "mask" else reference.torch.nn.Linear(24, 5)
    return reference.randomised(Segmenter(head, image_size, **TIMM))


def with_resized_positions(reference, module, decoder, grid):
    """The same network for images of `grid` patches."""
    from tests.references.segmenter import resized_positions

    state = module.state_dict()
    state["encoder.pos_embed"] = resized_positions(state["encoder.pos_embed"], grid)
    other = network(reference, decoder, tuple(8 * rows for rows in grid))
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_logits_equal_the_reference(reference, decoder):
    module = network(reference, decoder).eval()
    model = Segmenter(5, decoder=decoder, **ENCODER)
    variables = reference.converted(module, model, REFERENCE_RULES)
    image = random_image((2, 64, 64, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))

    # 45 x 70 pixels are padded to 6 x 9 patches, whose positions are interpolated between 8 x 8.
    module = with_resized_positions(reference, module, decoder, (6, 9)).eval()
    image = random_image((1, 45, 70, 3))
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(module(reference.nchw(image))))


def test_training_logits_and_gradients_equal_the_reference(reference):
    from tests.references.gradients import assert_same_gradients

    module = network(reference, "mask").train()
    model = Segmenter(5, dropout=0.0, drop_path=0.0, **ENCODER)
    variables = reference.converted(module, model, REFERENCE_RULES)
    image = random_image((2, 64, 61, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def loss(params):
        logits = model.apply({"params": params}, image, train=True)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)), logits

    gradient, logits = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = module(reference.nchw(image))
    reference.assert_close(logits, reference.nhwc(theirs))
    reference.torch.nn.functional.cross_entropy(theirs, reference.torch.from_numpy(label)).backward()
    assert_same_gradients({"params": gradient}, module, REFERENCE_RULES)


def test_features_equal_timm_and_a_classifier_fits_the_encoder(reference):
    timm = reference.library("timm")
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=7, depth=4)
    module = reference.randomised(module).eval()
    model = Segmenter(5, image_size=224, depth=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    encoder = {path: leaf for path, leaf in named_leaves(shapes) if "/backbone/" in path}
    found, report = convert(reference.state_arrays(module), encoder, VIT)
    assert not report.missing and not report.unknown and not report.mismatched and not report.unused
    assert {key for key, _ in report.skipped} == {"head.weight", "head.bias"}

    image = random_image((1, 224, 224, 3))
    variables = reference.nested({path.replace("/backbone/", "/"): array for path, array in found.items()})
    ours = reference.fast_jit(ViT(depth=4).apply)(variables, image)[16]
    theirs = module.forward_features(reference.nchw(image))[:, 1:]
    reference.assert_close(ours.reshape(theirs.shape), theirs.detach().numpy())


@pytest.mark.parametrize("variant", vit.VARIANTS)
def test_number_of_parameters_is_that_of_timm(reference, variant):
    timm = reference.library("timm")
    with reference.torch.device("meta"):
        module = timm.create_model(f"vit_{variant}_patch16_224", pretrained=False, num_classes=0)
    theirs = sum(parameter.numel() for parameter in module.parameters())
    shapes = jax.eval_shape(ViT(**vit.VARIANTS[variant]).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert count_params(shapes) == theirs


def test_attention_maps_are_those_of_the_pixels(reference):
    module = network(reference, "mask").eval()
    model = Segmenter(5, **ENCODER)
    variables = reference.converted(module, model, REFERENCE_RULES)
    image = random_image((1, 64, 64, 3))
    maps = reference.fast_jit(lambda v, x: model.apply(v, x, mutable=ATTENTION)[1][ATTENTION])(variables, image)
    assert jax.tree.map(jnp.shape, maps["decoder"]) == {
        f"block{i}": {"attn": {"attention": (1, 3, 8, 8, 8, 8)}} for i in range(2)
    }
    for found in jax.tree.leaves(maps):
        np.testing.assert_allclose(found.sum((-2, -1)), 1, rtol=1e-5)

    seen = []
    module.encoder.blocks[1].attn.qkv.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    module(reference.nchw(image))
    query, key, _ = seen[0].reshape(65, 3, 3, 8).permute(1, 2, 0, 3)  # three heads of 8 channels
    scores = (query @ key.transpose(1, 2) / 8**0.5)[:, 1:, 1:].softmax(-1)
    found = maps["backbone"]["block1"]["attn"]["attention"]
    reference.assert_close(found.reshape(scores.shape), scores.detach().numpy())


@pytest.mark.parametrize("decoder", ["mask", "linear"])
def test_without_attention_every_key_counts_alike(decoder):
    image = random_image((1, 32, 32, 3))
    plain, uniform = (Segmenter(3, decoder=decoder, attention=flag, **ENCODER) for flag in (True, False))
    variables = random_variables(plain, image.shape)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, random_variables(uniform, image.shape))
    kept = fast_jit(lambda v, x: uniform.apply(v, x, mutable=ATTENTION)[1][ATTENTION])(variables, image)
    for found in jax.tree.leaves(kept):
        np.testing.assert_allclose(found, 1 / 16, rtol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (8, 64)])
def test_images_of_any_size(size):
    model = Segmenter(3, **ENCODER)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32


def test_patches_equal_a_convolution_and_leave_the_rest_out():
    x = random_image((2, 11, 14, 3))
    layer = Patches(5, 4)
    variables = random_variables(layer, x.shape)
    kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
    expected = jax.lax.conv_general_dilated(
        x, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    found = layer.apply(variables, x)
    assert found.shape == (2, 2, 3, 5)
    np.testing.assert_allclose(found, expected + bias, rtol=1e-4, atol=1e-4)
    assert Patches(5, 4, dtype=jnp.bfloat16).apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(decoder="deeplab"), "decoder must be 'mask' or 'linear'; received 'deeplab'"),
        (dict(decoder_depth=0), "decoder_depth >= 1 .*received decoder_depth=0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
        (dict(heads=5), "width a multiple of heads .*received width=192, .*heads=5"),
        (dict(drop_path=1.0), "drop_path < 1; received .*drop_path=1.0"),
        (dict(image_size=100), "image_size must be a multiple of 16; received 100"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(5, **fields)
