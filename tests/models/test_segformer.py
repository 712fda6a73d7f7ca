"""SegFormer and its encoder against Hugging Face's transformers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.convert.mapping import convert
from segjax.convert.read import read_arrays
from segjax.convert.transformers import MIT, SEGFORMER
from segjax.core.batch import ATTENTION
from segjax.models import count_params
from segjax.models.backbones.mit import EfficientSelfAttention, MiT
from segjax.models.layers.drop_path import DropPath
from segjax.models.segformer import VARIANTS, SegFormer
from segjax.training.state import named_leaves
from tests.models.variables import fast_jit, random_image, random_variables

SMALL = dict(width=8, depths=(1, 2, 1, 1), channels=12)
"""Of SegFormer; with the heads of the paper and two blocks in one stage."""


@pytest.fixture(scope="module")
def reference():
    return pytest.importorskip("tests.references.pytorch")


def settings(fields):
    """transformers' names of our fields, without what is random in training."""
    return dict(
        hidden_sizes=[fields["width"] * heads for heads in (1, 2, 5, 8)],
        depths=list(fields["depths"]),
        drop_path_rate=0.0,
        classifier_dropout_prob=0.0,
        num_labels=5,
    )


def segmenter(reference, fields, seed=0):
    library = reference.library("transformers")
    config = library.SegformerConfig(**settings(fields), decoder_hidden_size=fields["channels"])
    return reference.randomised(library.SegformerForSemanticSegmentation(config), seed)


def scores(reference, module, image):
    """Their logits, at a quarter of the size, as `forward` there resizes them for its loss."""
    logits = module(reference.nchw(image)).logits
    resize = reference.torch.nn.functional.interpolate
    return resize(logits, image.shape[1:3], mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    "fields, shape",
    [
        (SMALL, (2, 64, 96, 3)),
        (SMALL, (1, 77, 99, 3)),  # features of 20 x 25, of which the reduction by 8 drops 4 rows and a column
        (VARIANTS["b0"], (1, 45, 64, 3)),
    ],
)
def test_logits_equal_transformers(reference, fields, shape):
    module = segmenter(reference, fields).eval()
    model = SegFormer(5, **fields)
    variables = reference.converted(module, model, SEGFORMER)
    image = random_image(shape)
    ours = reference.fast_jit(model.apply)(variables, image)
    reference.assert_close(ours, reference.nhwc(scores(reference, module, image)))


def test_training_logits_statistics_and_gradients_equal_transformers(reference):
    from tests.references.gradients import assert_same_gradients

    fields = {**SMALL, "depths": (1,) * 4}
    module = segmenter(reference, fields).train()
    model = SegFormer(5, dropout=0.0, drop_path=0.0, **fields)
    variables = reference.converted(module, model, SEGFORMER)
    image = random_image((2, 47, 64, 3))
    label = np.random.default_rng(0).integers(0, 5, image.shape[:3])

    def loss(params):
        logits, state = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], -1)), (logits, state)

    gradient, (logits, state) = reference.fast_jit(jax.grad(loss, has_aux=True))(variables["params"])
    theirs = scores(reference, module, image)
    reference.assert_close(logits, reference.nhwc(theirs))
    norm = module.decode_head.batch_norm
    reference.assert_close(state["batch_stats"]["head"]["conv"]["norm"]["mean"], norm.running_mean.numpy())
    reference.torch.nn.functional.cross_entropy(theirs, reference.torch.from_numpy(label)).backward()
    assert_same_gradients({"params": gradient}, module, SEGFORMER)


@pytest.mark.parametrize("variant", VARIANTS)
def test_number_of_parameters_is_that_of_transformers(reference, variant):
    library = reference.library("transformers")
    fields = VARIANTS[variant]
    config = library.SegformerConfig(**{**settings(fields), "num_labels": 150}, decoder_hidden_size=fields["channels"])
    with reference.torch.device("meta"):
        theirs = library.SegformerForSemanticSegmentation(config).num_parameters()
    model = SegFormer(150, **fields)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert count_params(shapes) == theirs
    # Xie et al. 2021, table 1a, in millions.
    assert round(theirs / 1e6, 1) == {"b0": 3.8, "b1": 13.7, "b2": 27.5, "b3": 47.3, "b4": 64.1, "b5": 84.7}[variant]


# The names in nvidia/segformer-b0-finetuned-ade-512-512 and nvidia/mit-b0, as convert_segformer_original_to_pytorch.py
# of transformers 4 wrote them: those of the first stage and of its first block.
PUBLISHED_ENCODER = [
    "segformer.encoder.patch_embeddings.0.proj",
    "segformer.encoder.patch_embeddings.0.layer_norm",
    "segformer.encoder.block.0.0.layer_norm_1",
    "segformer.encoder.block.0.0.attention.self.query",
    "segformer.encoder.block.0.0.attention.self.key",
    "segformer.encoder.block.0.0.attention.self.value",
    "segformer.encoder.block.0.0.attention.self.sr",
    "segformer.encoder.block.0.0.attention.self.layer_norm",
    "segformer.encoder.block.0.0.attention.output.dense",
    "segformer.encoder.block.0.0.layer_norm_2",
    "segformer.encoder.block.0.0.mlp.dense1",
    "segformer.encoder.block.0.0.mlp.dwconv.dwconv",
    "segformer.encoder.block.0.0.mlp.dense2",
    "segformer.encoder.layer_norm.0",
]
PUBLISHED_DECODER = [
    *(f"decode_head.linear_c.{index}.proj" for index in range(4)),
    "decode_head.linear_fuse",
    "decode_head.batch_norm",
    "decode_head.classifier",
]


def test_a_file_with_the_published_names_fits(reference, tmp_path):
    module = segmenter(reference, SMALL).eval()
    module.save_pretrained(tmp_path)
    arrays = read_arrays(tmp_path / "model.safetensors")
    modules = {key.rpartition(".")[0] for key in arrays}
    assert {*PUBLISHED_ENCODER, *PUBLISHED_DECODER} <= modules
    target = dict(
        named_leaves(jax.eval_shape(SegFormer(5, **SMALL).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    )
    found, report = convert(arrays, target, SEGFORMER)
    assert not report.missing and not report.unknown and not report.mismatched and not report.unused
    expected = reference.converted(module, SegFormer(5, **SMALL), SEGFORMER)  # by the names of state_dict()
    for path, leaf in named_leaves(expected):
        assert np.array_equal(found[path], leaf), path


def test_a_classifier_fits_the_encoder(reference, tmp_path):
    library = reference.library("transformers")
    module = reference.randomised(library.SegformerForImageClassification(library.SegformerConfig(**settings(SMALL))))
    module.eval().save_pretrained(tmp_path)
    arrays = read_arrays(tmp_path / "model.safetensors")
    assert {*PUBLISHED_ENCODER, "classifier"} <= {key.rpartition(".")[0] for key in arrays}
    model = SegFormer(5, **SMALL)
    target = dict(named_leaves(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))))
    encoder = {path: leaf for path, leaf in target.items() if "/backbone/" in path}
    for rules in (MIT, SEGFORMER):
        found, report = convert(arrays, encoder, rules)
        assert not report.missing and not report.unknown and not report.mismatched and not report.unused
        assert {key for key, _ in report.skipped} == {"classifier.weight", "classifier.bias"}

    image = random_image((1, 64, 64, 3))
    theirs = module.segformer(reference.nchw(image), output_hidden_states=True).hidden_states
    mit = MiT(width=SMALL["width"], depths=SMALL["depths"])
    own = {path.replace("/backbone/", "/"): array for path, array in found.items()}
    ours = reference.fast_jit(mit.apply)(reference.nested(own), image)
    assert [(info.level, info.channels) for info in mit.feature_info] == [(4, 8), (8, 16), (16, 40), (32, 64)]
    for info, features in zip(mit.feature_info, theirs, strict=True):
        assert ours[info.level].shape == (1, 64 // info.stride, 64 // info.stride, info.channels)
        reference.assert_close(ours[info.level], reference.nhwc(features))


@pytest.mark.parametrize("size", [(1, 1), (3, 17), (31, 33)])
def test_images_of_any_size(size):
    model = SegFormer(3, width=2, depths=(1,) * 4, channels=4)
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    logits, _ = jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), image)
    assert logits.shape == (2, *size, 3)


def test_features_shorter_than_the_reduction_are_padded_with_zeros():
    layer = EfficientSelfAttention(heads=1, reduction=4)
    x = random_image((1, 3, 9, 6))
    variables = random_variables(layer, x.shape)
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)))
    whole, kept = layer.apply(variables, padded, mutable=ATTENTION)
    np.testing.assert_allclose(layer.apply(variables, x), whole[:, :3], rtol=1e-5, atol=1e-5)
    assert kept[ATTENTION]["attention"].shape == (1, 1, 4, 9, 1, 2)


def test_attention_maps_are_those_of_transformers(reference):
    library = reference.library("transformers")
    config = library.SegformerConfig(**settings(SMALL), attn_implementation="eager")
    module = reference.randomised(library.SegformerModel(config)).eval()
    model = MiT(width=SMALL["width"], depths=SMALL["depths"])
    rules = [rule._replace(path=rule.path and rule.path.removeprefix("backbone/")) for rule in MIT]
    variables = reference.converted(module, model, rules)
    image = random_image((1, 77, 99, 3))
    maps = reference.fast_jit(lambda v, x: model.apply(v, x, mutable=ATTENTION)[1][ATTENTION])(variables, image)
    theirs = module(reference.nchw(image), output_attentions=True).attentions
    assert len(theirs) == 5
    for name, expected in zip(("stage1_0", "stage2_0", "stage2_1", "stage3_0", "stage4_0"), theirs, strict=True):
        found = maps[name]["attention"]["attention"]
        reference.assert_close(found.reshape(expected.shape), expected.detach().numpy())
    assert maps["stage2_0"]["attention"]["attention"].shape == (1, 2, 10, 13, 2, 3)


def test_without_attention_every_key_counts_alike():
    image = random_image((2, 64, 64, 3))
    plain, uniform = (SegFormer(3, width=4, depths=(1,) * 4, channels=8, attention=flag) for flag in (True, False))
    variables = random_variables(plain, image.shape)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, random_variables(uniform, image.shape))
    logits, kept = fast_jit(lambda v, x: uniform.apply(v, x, mutable=ATTENTION))(variables, image)
    for found in jax.tree.leaves(kept[ATTENTION]):
        np.testing.assert_allclose(found, 1 / np.prod(found.shape[-2:]), rtol=1e-6)

    def with_other_queries_and_keys(path, leaf):
        return leaf + 1 if {"query", "key"} & {key.key for key in path} else leaf

    other = jax.tree_util.tree_map_with_path(with_other_queries_and_keys, variables)
    np.testing.assert_allclose(fast_jit(uniform.apply)(other, image), logits, rtol=1e-5, atol=1e-6)
    apply = fast_jit(plain.apply)
    assert np.abs(apply(other, image) - apply(variables, image)).max() > 1e-2 * np.abs(logits).max()


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3), jnp.bfloat16)
    out = DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert out.dtype == x.dtype
    out = np.asarray(out, np.float32)
    assert (out == out[:, :1, :1]).all()
    assert set(np.unique(out)) == {0.0, float(jnp.bfloat16(1 / 0.75))}
    # The share of what is kept is binomial: six standard deviations.
    assert abs((out[:, 0, 0] > 0).mean() - 0.75) < 6 * (0.25 * 0.75 / 4000) ** 0.5
    assert DropPath(0.25).apply({}, x, train=False) is x
    assert DropPath(0.0).apply({}, x, train=True) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_refuses_other_rates(rate):
    with pytest.raises(ValueError, match=f"0 <= rate < 1; received {rate}"):
        DropPath(rate)


def test_stochastic_depth_grows_with_the_blocks():
    model = MiT(width=2, depths=(1, 2, 1, 1), drop_path=0.4)
    found = {}

    def note(next_call, args, kwargs, context):
        if isinstance(context.module, DropPath):
            found.setdefault(context.module.path[0], []).append(context.module.rate)
        return next_call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rates = {"stage1_0": 0.0, "stage2_0": 0.1, "stage2_1": 0.2, "stage3_0": 0.3, "stage4_0": 0.4}
    assert found == {name: pytest.approx([rate, rate]) for name, rate in rates.items()}


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(channels=0), "channels >= 1 .*received channels=0"),
        (dict(dropout=1.0), "dropout < 1; received .*dropout=1.0"),
        (dict(depths=(2, 2)), r"MiT's depths must be four numbers >= 1; received \(2, 2\)"),
        (dict(heads=(1, 2, 5, 0)), r"MiT's heads must be four numbers >= 1; received \(1, 2, 5, 0\)"),
        (dict(width=0), "width >= 1.*received width=0"),
        (dict(drop_path=1.0), "drop_path < 1; received .*drop_path=1.0"),
    ],
)
def test_wrong_fields_are_explained(fields, message):
    with pytest.raises(ValueError, match=message):
        SegFormer(5, **fields)
